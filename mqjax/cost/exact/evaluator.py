"""Evaluating given mappings: the jit boundary, batches of a fixed size, and the cost record.

64-bit is enabled here, for the reuse analysis only: counts exceed 2^24 and energies 2^31, so nothing in this module is
ever float32. Code around it (Flax training) keeps JAX's 32-bit default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from mqjax.arch import Arch
from mqjax.cost.exact import multicast, nest, price
from mqjax.cost.exact.forwarding import Forwarded, forwarded, signatures
from mqjax.cost.exact.multicast import Signatures
from mqjax.cost.packing import Widths, slowest_pace, widths_of
from mqjax.errors import InputError
from mqjax.kept import Kept
from mqjax.mapspace.mapping import Mappings, Record, encode
from mqjax.types import BitWidths, Layer

CHUNKS = (64, 2048)
"""Numbers of mappings that are analysed at a time."""

LARGEST_COUNT = 2**53
"""Float64 holds every integer up to here."""


AT_ONCE = 2**20
"""Signatures of multicasts, or loop steps of levels, that are held in one array."""

export.register_namedtuple_serialization(nest.Analysis, serialized_name="mqjax.Analysis")
_analyse = Kept(jax.jit(nest.analyse))


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a batch of mappings costs; axis B. Where `valid` is false the costs are inf and `cycles` is 0."""

    valid: np.ndarray  # bool [B]
    energy_pj: np.ndarray  # float64 [B]
    cycles: np.ndarray  # int64 [B]

    @property
    def edp(self) -> np.ndarray:
        """Energy-delay product, pJ * cycles, float64 [B]."""
        return np.where(self.valid, np.where(self.valid, self.energy_pj, 0.0) * self.cycles, np.inf)

    @property
    def delay(self) -> np.ndarray:
        """Cycles as float64 [B], inf where invalid."""
        return np.where(self.valid, self.cycles, np.inf)

    def metric(self, name: str) -> np.ndarray:
        """ "energy" (pJ), "edp" (pJ * cycles) or "delay" (cycles), float64 [B]."""
        return {"energy": self.energy_pj, "edp": self.edp, "delay": self.delay}[name]


class Analysed(NamedTuple):
    """Some mappings after reuse analysis, as NumPy arrays; `rows` are their positions in the caller's order."""

    rows: np.ndarray
    keep: np.ndarray
    analysis: nest.Analysis
    traffic: price.Traffic
    forwarded: Forwarded | None = None  # where neighbours forward data

    def take(self, rows: np.ndarray) -> Analysed:
        """Some of these mappings, any of them also several times, without what only networks' statistics need."""
        unused = {"delta", "scatter", "spatial", "inside", "fresh", "jump", "base", "times"}
        analysis: dict[str, Any] = {
            name: None if name in unused else x[rows] for name, x in self.analysis._asdict().items()
        }
        moved = price.Traffic(*(x[rows] for x in self.traffic[:-1]), network=None)
        return Analysed(self.rows[rows], self.keep[rows], nest.Analysis(**analysis), moved)

    def cost(self, arch: Arch, widths: Widths) -> tuple[price.Validity, price.Priced]:
        """Validity and cost at some widths, of each mapping or of all. Rows that do not fit are priced too, and their
        numbers mean nothing."""
        widths = widths._replace(operands=np.broadcast_to(widths.operands, self.keep.shape))
        validity = price.check(arch, self.analysis, self.keep, widths.operands)
        with np.errstate(all="ignore"):
            return validity, price.price(arch, self.analysis, self.traffic, self.keep, widths)


def evaluate(
    arch: Arch, layer: Layer, bits: BitWidths, mappings: Sequence[Record] | Mappings, *, chunk: int = 2048
) -> Cost:
    """Cost of each of `mappings` (records, or arrays from `encode`) for `layer` at bit-widths `bits`.

    Exact: integers equal the reference's, energies agree to the last bit. Any mapping of the accelerator's levels is
    accepted, also outside its constraints. Raises `InputError` for mappings that do not fit the layer and for widths
    that do not fit a word.
    """
    arrays = mappings if isinstance(mappings, Mappings) else encode(arch, [layer] * len(mappings), mappings)
    size = len(arrays)
    cost = Cost(np.zeros(size, bool), np.full(size, np.inf), np.zeros(size, np.int64))
    arch.check_widths(bits, layer)
    widths = widths_of(arch, bits)
    for part in analyse_mappings(arch, [layer] * size, arrays, chunk=chunk):
        validity, priced = part.cost(arch, widths)
        cost.valid[part.rows] = validity.valid
        cost.energy_pj[part.rows] = np.where(validity.valid, priced.energy_pj, np.inf)
        cost.cycles[part.rows] = np.where(validity.valid, priced.cycles, 0)
    return cost


def analyse_mappings(
    arch: Arch, layers: Sequence[Layer], mappings: Mappings, *, chunk: int = 2048
) -> Iterator[Analysed]:
    """Reuse analysis of mapping i for layers[i], in parts; what any bit-widths can then be priced with.

    Parts may come out of order: mappings with several signatures of multicasts are handled apart.
    """
    if not layers:
        return
    problem, which = problems(layers, LARGEST_COUNT // slowest_pace(arch))
    # Few mappings fill a small chunk; a chunk of each size is compiled once.
    chunk = min(chunk, next((size for size in CHUNKS if size >= len(mappings)), CHUNKS[-1]))
    depth = len(arch.levels)
    chunk = max(CHUNKS[0], min(chunk, AT_ONCE // (depth * depth * mappings.temporal_dim.shape[2])))
    fanout = np.array(arch.fanout, np.int64)
    for start in range(0, len(mappings), chunk):
        rows = np.arange(start, min(start + chunk, len(mappings)))
        of_rows, some = nest.Problem(*(x[which[rows]] for x in problem)), mappings.take(rows)
        analysis = _on_device(of_rows, some, chunk)
        fits = (analysis.fan_xy <= fanout).all(axis=(1, 2))
        overlapping = multicast.overlapping(of_rows.coefficients, analysis.spatial, analysis.inside) & fits[:, None]
        apart, moved = overlapping.any(axis=1), None
        if analysis.times[fits].any():
            moved = forwarded(of_rows, some, analysis, fits, fanout)
            apart[moved.row] = True
        if not apart.all():
            at = np.flatnonzero(~apart)
            part = nest.Analysis(*(x[at] for x in analysis)) if apart.any() else analysis
            keep = some.keep[at]
            traffic = _traffic(arch, part, multicast.uniform_signatures(part), np.zeros_like(part.delta), keep)
            yield Analysed(rows[at], keep, part, traffic)
        for at in _pieces(np.flatnonzero(apart), analysis, overlapping, moved):
            part, keep = nest.Analysis(*(x[at] for x in analysis)), some.keep[at]
            here = None if moved is None else moved.select(at)
            found, links = signatures(of_rows.coefficients[at], part, overlapping[at], here)
            yield Analysed(rows[at], keep, part, _traffic(arch, part, found, links, keep), here)


def _pieces(
    rows: np.ndarray, analysis: nest.Analysis, overlapping: np.ndarray, moved: Forwarded | None
) -> Iterator[np.ndarray]:
    """Parts of `rows` whose signatures fit in memory together."""
    most = np.sqrt(np.where(overlapping, analysis.fan, 1).max(axis=1))  # sizes of groups of a tensor
    if moved is not None:
        most += np.bincount(moved.row[moved.groups.fan], minlength=len(most))
    order = rows[np.argsort(most[rows], kind="stable")]
    slots = analysis.delta[0].size * most[order].astype(np.int64)
    while len(order):
        fit = np.arange(1, len(order) + 1) * slots <= AT_ONCE
        count = max(1, int(np.argmin(fit)) if not fit.all() else len(order))
        # Ascending, as what neighbours forward is listed.
        yield np.sort(order[:count])
        order, slots = order[count:], slots[count:]


def _traffic(
    arch: Arch, analysis: nest.Analysis, signatures: Signatures, links: np.ndarray, keep: np.ndarray
) -> price.Traffic:
    # Mappings that do not fit go through too; what they divide by zero is never looked at.
    with np.errstate(all="ignore"):
        return price.traffic(arch, analysis, signatures, links, keep)


def problems(layers: Sequence[Layer], largest_exact: float = LARGEST_COUNT) -> tuple[nest.Problem, np.ndarray]:
    """The problems of the distinct layers, at least one, along a leading axis, and for each of `layers` which one it is.

    Raises `InputError` where the counts of a layer could exceed those that are exact.
    """
    # The same object comes often, and hashing a layer takes long.
    objects = {id(layer): layer for layer in layers}
    place: dict[Layer, int] = {}
    of_object = {key: place.setdefault(layer, len(place)) for key, layer in objects.items()}
    for layer in place:
        check_counts(layer, largest_exact)
    found = nest.equally_long([nest.problem(layer) for layer in place])
    stacked = nest.Problem(*(np.stack(parts) for parts in zip(*found, strict=True)))
    return stacked, np.array([of_object[id(layer)] for layer in layers], np.int64)


def check_counts(layer: Layer, largest_exact: float = LARGEST_COUNT) -> None:
    """Raise `InputError` where the counts of a layer could exceed those that are exact."""
    largest = layer.macs * layer.Wstride * layer.Hstride * layer.Wdilation * layer.Hdilation
    if largest >= largest_exact:
        raise InputError(
            f"layer {layer.name!r}: its counts may exceed 2^{math.log2(largest_exact):g}, beyond which they would not be exact; use smaller bounds"
        )


def _on_device(problem: nest.Problem, mappings: Mappings, chunk: int) -> nest.Analysis:
    """Run the compiled analysis on at most `chunk` mappings, padded to as many, so that it compiles once."""
    size = len(mappings)
    if size < chunk:
        rows = np.minimum(np.arange(chunk), size - 1)
        problem, mappings = nest.Problem(*(x[rows] for x in problem)), mappings.take(rows)
    with jax.enable_x64(True):
        result = _analyse(problem, mappings)
    return nest.Analysis(*(np.asarray(x)[:size] for x in result))
