"""Everything that is compared on a random case: the fast path, the exact evaluator, and plain enumeration by `oracle`.

Each check yields a sentence per disagreement, with both values; `judge` runs all of them and raises `AssertionError`.
"""

from __future__ import annotations

import itertools
import math
import random
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import oracle
from fast_terms import exact_terms, fast_terms
from mqjax.cost.exact.evaluator import evaluate
from mqjax.cost.packing import packing_boxes
from mqjax.io.records import evaluate_records
from mqjax.mapper.levels.proof import ROUNDING, prove
from mqjax.mapper.levels.spreads import spreads
from mqjax.mapper.optima import Optimum
from mqjax.mapper.sweep import Sweeper
from mqjax.mapper.table import cost_table, entry_of
from mqjax.mapspace.mapping import decode
from mqjax.mapspace.rows import Rows, mappings, spatial_variants
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, TENSORS, BitWidths, Layer, all_widths
from random_accelerators import Case
from trial import Trial, by_tensor, nest_of

SAMPLED, WILD, TERMS = 48, 48, 2**11
"""Mappings of the space and outside of its constraints that the exact evaluator is tried on; and rows of the distinct
space whose terms are compared, at most."""

PRECISION = 1e-12
"""Energies on the fast path may be off by some ulps (and by next to nothing where they are 0)."""


Check = Callable[[Trial], Iterator[str]]


def judge(case: Case, checks: Sequence[Check] | None = None) -> None:
    """Raise `AssertionError` with all disagreements on a case, one a line, each of which begins with its check; all
    checks unless some are given."""
    found = [message for layer in case.layers for message in disagreements(case, layer, checks)]
    assert not found, "\n".join(found)


def disagreements(case: Case, layer: Layer, checks: Sequence[Check] | None = None) -> Iterator[str]:
    """Up to three disagreements of each check on one layer; a crash is one too, and so is a warning."""
    trial = Trial(case, layer)
    for check in CHECKS if checks is None else checks:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = list(itertools.islice(check(trial), 3))
            except Exception as error:  # whatever a wrong program may raise
                found = [f"crash {type(error).__name__}: {str(error)[:300]}{_place(error)}"]
        yield from (f"{check.__name__}: {message}" for message in found)


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({frame.filename.rsplit('/', 1)[-1]}, line {frame.lineno})"


# --- The checks ------------------------------------------------------------------------------------------------------


def sizes(trial: Trial) -> Iterator[str]:
    """Sizes of the space against enumeration."""
    space, enumerated = trial.space, trial.enumerated
    underused = map(enumerated.underused, trial.mappings)
    fit = sum(not (analysis.too_wide or levels) for analysis, levels in zip(trial.analyses, underused, strict=True))
    for name, got, wanted in (
        ("size", space.size, enumerated.nominal_size),
        ("pruned_size", space.pruned_size, len(trial.mappings)),
        ("fanout_valid", space.fanout_valid, fit),
    ):
        if got != wanted:
            yield f"{name} is {got}, not {wanted}"


def evaluator(trial: Trial) -> Iterator[str]:
    """Records of the exact evaluator against the oracle's: every number that the oracle computes."""
    rng = trial.rng
    some = rng.sample(trial.mappings, min(SAMPLED, len(trial.mappings)))
    records = [trial.record(mapping, rng.choice(trial.bits)) for mapping in some]
    for _ in range(WILD):
        bits = rng.choice(trial.bits)
        records.append(trial.record(wild_mapping(rng, trial, bits), bits))
    for record, result in zip(records, evaluate_records(trial.arch, records), strict=True):
        wanted = oracle.evaluate(trial.arch, record)
        for name, got, right in _differing(trial, result, wanted):
            where = [f"{x['level']} {kind} {x[kind]}" for x in record["mapping"] for kind in ("spatial", "temporal")]
            keeps = [x["keep"] for x in record["mapping"]]
            loops = "; ".join(text for text in where if not text.endswith("[]"))
            yield f"{name} is {got}, not {right}, at {record['bitwidths']} for {loops}, keep {keeps}"


def _differing(trial: Trial, result: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What is not equal: name, the evaluator's value, the oracle's."""
    if result["valid"] != wanted["valid"]:
        yield "valid", result["valid"], wanted["valid"]
    elif not result["valid"]:
        fail = result["fail"]["stage"], [level["level"] for level in result["fail"]["levels"]]
        if fail != (wanted["stage"], wanted["levels"]):
            yield "fail", fail, (wanted["stage"], wanted["levels"])
    else:
        stats, inner = result["stats"], trial.arch.mac.name
        pairs = [(f"{key}", stats["totals"][key], wanted[key]) for key in ("energy_pJ", "cycles")]
        pairs.append(("computes", stats["mac"]["computes"], wanted["computes"]))
        for s, (name, right) in enumerate(wanted["levels"].items()):
            level, network = stats["levels"][name], stats["networks"][f"{name} <==> {inner}"]
            inner = name
            pairs += [(f"{name} {key}", level[key], right[key]) for key in ("energy_total_pJ", "cycles")]
            for tensor, values in right["tensors"].items():
                for key in ("reads", "fills", "updates", "tile_size", "energy_pJ"):
                    pairs.append((f"{name} {tensor} {key}", level["tensors"][tensor][key], values[key]))
                moved = network["tensors"][tensor]
                pairs.append((f"{name} {tensor} link_transfers", moved["link_transfers"], values["link"]))
                if tensor != "Outputs" or s + 1 < len(trial.arch.levels):
                    ingress = {(x["multicast"], x["scatter"]): x["accesses"] for x in moved["ingress_by_multicast"]}
                    pairs.append((f"{name} {tensor} ingresses", ingress, values["signatures"]))
        yield from (pair for pair in pairs if pair[1] != pair[2])


def wild_mapping(rng: random.Random, trial: Trial, bits: BitWidths) -> list[dict[str, Any]]:
    """A mapping of the layer that knows no constraints; few loops are spatial where no fan-out is."""
    arch, widths = trial.arch, by_tensor(bits)
    loops: dict[tuple[int, str], dict[str, int]] = {}
    for d, bound in zip(trial.layer.letters, trial.layer.bounds, strict=True):
        if d is None:
            continue
        for prime in _primes(bound):
            s = rng.randrange(len(arch.levels))
            x, y = arch.fanout[s]
            axes = ["T", "T", *("X" * (3 if x > 1 else 0)), *("Y" * (3 if y > 1 else 0))]
            axis = rng.choice("XY") if rng.random() < 0.02 else rng.choice(axes)
            here = loops.setdefault((s, axis), {})
            here[d] = here.get(d, 1) * prime
    record = []
    for s, level in enumerate(arch.levels):
        spatial = [[d, n, axis] for axis in "XY" for d, n in loops.get((s, axis), {}).items()]
        temporal = [[d, n] for d, n in loops.get((s, "T"), {}).items()]
        rng.shuffle(spatial)
        rng.shuffle(temporal)
        keep = [t for t, kept in zip(TENSORS, level.keep, strict=True) if kept]
        if rng.random() < 0.5 and s + 1 < len(arch.levels):
            keep = [t for t in TENSORS if rng.random() < 0.5 and (widths[t] or 0) <= level.word_bits]
        record.append({"level": level.name, "temporal": temporal, "spatial": spatial, "keep": keep})
    return record


def _primes(n: int) -> list[int]:
    for p in range(2, n + 1):
        if n % p == 0:
            return [p, *_primes(n // p)]
    return []


def terms(trial: Trial) -> Iterator[str]:
    """The fast path against the exact evaluator, term by term, for the mappings of the distinct space."""
    space = trial.space
    if space.too_large or not space.distinct:
        return
    sweeper = Sweeper(space, [box for bits in trial.bits for box in packing_boxes(trial.arch, [bits])])
    numbers = np.arange(space.distinct)
    if len(numbers) > TERMS:
        numbers = np.sort(trial.rng.sample(range(space.distinct), TERMS))
    # Where a mapping is not doubtful, its terms are the same with every order of its spatial loops.
    rows = spatial_variants(space, sweeper.numbering.at(numbers))
    if len(rows) > TERMS:
        rows = rows.take(np.sort(trial.rng.sample(range(len(rows)), TERMS)))
    counts, costs = fast_terms(sweeper, rows)
    nests = mappings(space, rows)
    exact = exact_terms(trial, nests)
    doubtful = counts.pop("doubtful") > 0
    for name, values in counts.items():
        # Of Inputs of doubtful mappings there are only lower bounds.
        bound = doubtful & name.startswith("Inputs")
        for i in np.flatnonzero(np.where(bound, values > exact[name], values != exact[name]))[:1]:
            yield f"{name} is {values[i]:g}, not {exact[name][i]:g}, for {_shown(space, rows, i)}"
    sure = np.flatnonzero(~doubtful)
    if not len(sure):
        return
    nests, rows = nests.take(sure), rows.take(sure)
    costs = [(energy[sure], cycles[sure]) for energy, cycles in costs]
    for bits, (energy, cycles) in zip(trial.bits, costs, strict=True):
        wanted = evaluate(trial.arch, trial.layer, bits, nests)
        fits = np.isfinite(cycles)
        wrong = (
            ("valid", fits, wanted.valid, fits != wanted.valid),
            ("cycles", cycles, wanted.cycles, fits & wanted.valid & (cycles != wanted.cycles)),
            (
                "energy",
                energy,
                wanted.energy_pj,
                fits & wanted.valid & ~np.isclose(energy, wanted.energy_pj, rtol=PRECISION, atol=1e-150),
            ),
        )
        for name, got, right, differ in wrong:
            for i in np.flatnonzero(differ)[:1]:
                yield f"{name} is {got[i]!r}, not {right[i]!r}, at {bits} for {_shown(space, rows, i)}"


def _shown(space: Mapspace, rows: Rows, i: int) -> str:
    return str(nest_of(decode(space.arch, space.layer, mappings(space, rows.take([i])), 0)))


def optima(trial: Trial) -> Iterator[str]:
    """The best mappings, each width triple alone, against enumeration."""
    for bits in trial.bits:
        costs = trial.costs(bits)
        found = trial.alone(bits)
        if found is None:
            if costs:
                yield f"no mapping fits at {bits}, but {len(costs)} do"
            continue
        if not costs:
            yield f"{found['energy'].energy_pj} pJ at {bits}, but no mapping fits"
            continue
        for metric, optimum in found.items():
            yield from _judged(trial, metric, optimum, costs)
    for bits in trial.too_wide:
        if trial.alone(bits) is not None:
            yield f"{bits} does not fit a word, but is mapped"


def _judged(trial: Trial, metric: str, optimum: Optimum, costs: list[tuple[float, int]]) -> Iterator[str]:
    bits = optimum.bits
    key = ranking(metric)
    got = (optimum.energy_pj, optimum.cycles)
    best = min(costs, key=key)
    if optimum.covered and got != best:
        yield f"the least {metric} at {bits} is {got} 'proven', not {best} (pJ, cycles)"
    if not optimum.covered and key(got) < key(best):
        yield f"the least {metric} at {bits} is {got}, better than any mapping's {best} (pJ, cycles)"
    if optimum.covered and optimum.valid_mappings != len(costs):
        yield f"{optimum.valid_mappings} valid mappings at {bits}, not {len(costs)}"
    yield from _attained(trial, metric, optimum)


def _attained(trial: Trial, metric: str, optimum: Optimum) -> Iterator[str]:
    bits, got = optimum.bits, (optimum.energy_pj, optimum.cycles)
    again = oracle.evaluate(trial.arch, trial.record(optimum.mapping, bits))
    if not again["valid"] or got != (again["energy_pJ"], again["cycles"]):
        priced = (again["energy_pJ"], again["cycles"]) if again["valid"] else again
        yield f"the mapping of least {metric} at {bits} costs {priced}, not {got}"
    if nest_of(optimum.mapping) not in trial.nests:
        yield f"the mapping of least {metric} at {bits} is outside the space: {nest_of(optimum.mapping)}"


def by_levels(trial: Trial) -> Iterator[str]:
    """The optima that are proven level by level, against enumeration: equal but for rounding, whatever else is equal."""
    solution = prove(trial.space, trial.bits, deadline=math.inf).solution()
    if not solution.covered and spreads(trial.space) is not None:
        yield "the optima are not proven"
    for i, bits in enumerate(trial.bits):
        costs = trial.costs(bits)
        for m, metric in enumerate(METRICS):
            least = min((ranking(metric)(cost)[0] for cost in costs), default=math.inf)
            found = float(solution.values()[m, i])
            if found < least * (1 - PRECISION) or (solution.covered and found > least * (1 + ROUNDING)):
                yield f"the least {metric} at {bits} is {found}, {'proven' * solution.covered}, not {least}"
            if np.isfinite(found):
                yield from _attained(trial, metric, solution.optimum(metric, i))


def ranking(metric: str) -> Callable[[tuple[float, int]], tuple[float, ...]]:
    """By what (energy, cycles) compete: the metric, then cycles, then energy."""
    value = {"energy": lambda e, c: e, "edp": lambda e, c: e * c, "delay": lambda e, c: float(c)}[metric]
    return lambda cost: (value(*cost), cost[1], cost[0])


def together(trial: Trial) -> Iterator[str]:
    """All width triples at once against each alone."""
    triples = list(trial.together)
    for bits in {*trial.rng.sample(triples, min(3, len(triples))), *trial.bits} & set(triples):
        one, all_ = (
            None if x is None else list(map(_facts, x.values())) for x in (trial.alone(bits), trial.together[bits])
        )
        if one != all_:
            yield f"{bits} among all gives {all_}, alone {one}"


def _facts(optimum: Optimum) -> tuple[Any, ...]:
    return optimum.energy_pj, optimum.cycles, optimum.valid_mappings, optimum.covered, nest_of(optimum.mapping)


def table(trial: Trial) -> Iterator[str]:
    """The cost table against the best mappings."""
    found = cost_table(trial.arch, [trial.layer], constraints=trial.constraints, pad=None)
    for metric in METRICS:
        values = found.tables[0].value(metric)
        for bits in (*all_widths(), BitWidths()):
            best = trial.together.get(bits)
            wanted = np.inf if best is None else _metric_value(best[metric], metric)
            if values[entry_of(bits)] != wanted:
                yield f"{metric} at {bits} is {values[entry_of(bits)]}, not {wanted}"
                break


def _metric_value(optimum: Optimum, metric: str) -> float:
    return {"energy": optimum.energy_pj, "edp": optimum.edp, "delay": float(optimum.cycles)}[metric]


CHECKS: tuple[Check, ...] = (sizes, evaluator, terms, optima, by_levels, together, table)
