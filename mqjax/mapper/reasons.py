"""Why no mapping of a layer fits, in words."""

from __future__ import annotations

from mqjax.mapper.rejections import Need, Reasons, Rejection, find_reasons
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths


def why_nothing_fits(space: Mapspace, bits: BitWidths) -> str:
    """Words for the reason why no mapping of `space` fits at these widths."""
    found = space.arch.too_wide(bits)
    if found is not None:
        return f"{found[0]} bits do not fit the {found[1].word_bits}-bit words of {found[1].name}"
    return sentence(find_reasons(space, bits), space, bits)


def sentence(found: Reasons, space: Mapspace, bits: BitWidths) -> str:
    """What was found, as text that begins in the middle of a sentence."""
    if not found.change:
        return "some mappings fit, but none was found in time; search for longer"
    kind = "tiling" if found.sampled else "mapping"
    looked_at = f"of {_many(found.size, kind)}{' sampled' if found.sampled else ''}"
    if found.fitting:
        looked_at += f", {found.fitting:,} fit the array; of these"
    parts = [_rejection(rejection, space, bits, found.sampled) for rejection in found.rejections]
    changes: dict[str, list[str]] = {}
    for need in found.change:
        changes.setdefault(need.level, []).append(_needed(need))
    change = " and ".join(f"{level} with {' and '.join(what)}" for level, what in changes.items())
    return f"{looked_at}, {', '.join(parts)}; {change} would admit one"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _needed(need: Need) -> str:
    if need.what == "use":
        return f"{_many(need.available, 'instance')} in use at least, and not {need.least:,},"
    return _many(need.least, "word") if need.what == "words" else f"{_many(need.least, 'instance')} along {need.what}"


def _rejection(rejection: Rejection, space: Mapspace, bits: BitWidths, sampled: bool) -> str:
    proven = any(need.exceeds for need in rejection.needs)
    details = []
    for need in rejection.needs:
        at = f" at {bits} bits" if need.what == "words" and bits != BitWidths() else ""
        if need.exceeds and need.what == "use":
            details.append(f"{_many(need.available, 'instance')} in use at most where {need.least:,} must be")
        elif need.exceeds:
            details.append(f"at least {_needed(need)}{at} where it has {need.available:,}")
        elif need.what == "words":
            details.append(f"the smallest tiles take {_needed(need)}{at} of {need.available:,}")
    for d, factor in rejection.forced.items() if proven else ():
        whole = "must lie there whole" if factor == getattr(space.layer, d) else "is fixed there"
        details.append(f"{d}={factor} {whole}")
    who = "all" if rejection.rejected == rejection.of else f"{rejection.rejected:,}"
    if sampled and proven:
        who = "like every mapping of the space, all"
    what = "" if rejection.needs[0].what == "words" else "the fan-out of "
    # Where some of a fan-out must be in use, mappings are also rejected for too little.
    verb = "do not fit" if rejection.needs[-1].what == "use" else "exceed"
    return f"{who} {verb} {what}{rejection.level}" + (f" ({', '.join(details)})" if details else "")
