"""Evaluating given mappings: the jit boundary, batches of a fixed size, and the cost record.

64-bit is enabled here, for the reuse analysis only: counts exceed 2^24 and energies 2^31, so nothing in this module is
ever float32. Code around it (Flax training) keeps JAX's 32-bit default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from mqjax import nest, price
from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.mapping import Mappings, Record, encode
from mqjax.packing import packing_table
from mqjax.types import BitWidths, Layer

CHUNKS = (64, 2048)
"""Numbers of mappings that are analysed at a time."""

LARGEST_COUNT = 2**53
"""Float64 holds every integer up to here."""


@partial(jax.jit, static_argnames="elements")
def _analyse(problem: nest.Problem, mappings: Mappings, fanout: jax.Array, elements: int) -> nest.Analysis:
    return nest.analyse(problem, mappings, fanout, elements)


@partial(jax.jit, static_argnames="elements")
def _forward(problem: nest.Problem, mappings: Mappings, fanout: jax.Array, elements: int) -> nest.Forwarding:
    return nest.forward(problem, mappings, fanout, elements)


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

    def take(self, rows: np.ndarray) -> Analysed:
        """Some of these mappings, any of them also several times, without what only networks' statistics need."""
        unused = {"groups", "group_hops"}
        analysis: dict[str, Any] = {
            name: None if name in unused else x[rows] for name, x in self.analysis._asdict().items()
        }
        moved = price.Traffic(*(x[rows] for x in self.traffic[:-1]), network=None)
        return Analysed(self.rows[rows], self.keep[rows], nest.Analysis(**analysis), moved)

    def cost(self, arch: Arch, packing: np.ndarray) -> tuple[price.Validity, price.Priced]:
        """Validity and cost at a packing, int64 [B, L, T] or [L, T] operands per word. Rows that do not fit are priced
        too, and their numbers mean nothing."""
        packing = np.broadcast_to(packing, self.keep.shape)
        validity = price.check(arch, self.analysis, self.keep, packing)
        with np.errstate(all="ignore"):
            return validity, price.price(arch, self.analysis, self.traffic, self.keep, packing)


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
    packing = packing_table(arch, bits)
    for part in analyse_mappings(arch, [layer] * size, arrays, chunk=chunk):
        validity, priced = part.cost(arch, packing)
        cost.valid[part.rows] = validity.valid
        cost.energy_pj[part.rows] = np.where(validity.valid, priced.energy_pj, np.inf)
        cost.cycles[part.rows] = np.where(validity.valid, priced.cycles, 0)
    return cost


def analyse_mappings(
    arch: Arch, layers: Sequence[Layer], mappings: Mappings, *, chunk: int = 2048
) -> Iterator[Analysed]:
    """Reuse analysis of mapping i for layers[i], in parts; what any bit-widths can then be priced with.

    Parts may come out of order: mappings in which neighbours forward data are analysed apart.
    """
    for layer in set(layers):
        check_counts(layer)
    problems = {layer: nest.problem(layer) for layer in set(layers)}
    elements = max(x * y for x, y in arch.fanout)
    # Few mappings fill a small chunk; a chunk of each size is compiled once.
    chunk = min(chunk, next((size for size in CHUNKS if size >= len(mappings)), CHUNKS[-1]))
    chunk = max(CHUNKS[0], min(chunk, 2**20 // elements**2))
    fanout = np.array(arch.fanout, np.int64)
    for start in range(0, len(mappings), chunk):
        rows = np.arange(start, min(start + chunk, len(mappings)))
        problem = nest.Problem(
            *(np.stack(part) for part in zip(*(problems[layers[int(r)]] for r in rows), strict=True))
        )
        some = mappings.take(rows)
        analysis = _on_device(_analyse, problem, some, fanout, elements, chunk)
        fits = (analysis.fan_xy <= fanout).all(axis=(1, 2))
        forwards = analysis.forwardable & fits
        if not forwards.all():
            part = nest.Analysis(*(x[~forwards] for x in analysis))
            moved = _traffic(arch, part, price.plain_signatures(part), np.zeros_like(part.delta), some.keep[~forwards])
            yield Analysed(rows[~forwards], some.keep[~forwards], part, moved)
        if forwards.any():
            part = nest.Analysis(*(x[forwards] for x in analysis))
            some_problems = nest.Problem(*(x[forwards] for x in problem))
            forwarding = _on_device(_forward, some_problems, some.take(forwards), fanout, elements, 64)
            signatures = price.forwarded_signatures(part, forwarding)
            moved = _traffic(arch, part, signatures, forwarding.links, some.keep[forwards])
            yield Analysed(rows[forwards], some.keep[forwards], part, moved)


def _traffic(
    arch: Arch, analysis: nest.Analysis, signatures: price.Signatures, links: np.ndarray, keep: np.ndarray
) -> price.Traffic:
    # Mappings that do not fit go through too; what they divide by zero is never looked at.
    with np.errstate(all="ignore"):
        return price.traffic(arch, analysis, signatures, links, keep)


def check_counts(layer: Layer, largest_exact: float = LARGEST_COUNT) -> None:
    """Raise `InputError` where the counts of a layer could exceed those that are exact."""
    largest = layer.macs * layer.Wstride * layer.Hstride * layer.Wdilation * layer.Hdilation
    if largest >= largest_exact:
        raise InputError(
            f"layer {layer.name!r}: its counts may exceed 2^{math.log2(largest_exact):g}, beyond which they would not be exact; use smaller bounds"
        )


def _on_device(function, problem: nest.Problem, mappings: Mappings, fanout: np.ndarray, elements: int, chunk: int):
    """Run a compiled analysis in pieces of `chunk` mappings, the last one padded, so that it compiles once."""
    size, pieces = len(mappings), []
    for start in range(0, size, chunk):
        rows = np.minimum(np.arange(start, start + chunk), size - 1)
        with jax.enable_x64(True):
            result = function(nest.Problem(*(x[rows] for x in problem)), mappings.take(rows), fanout, elements)
        pieces.append(type(result)(*(np.asarray(x)[: size - start] for x in result)))
    return type(pieces[0])(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
