"""The front of (loss, cost) over all assignments, where loss and cost are sums: by dynamic programming, layer by layer.

The loss of an assignment is taken as the sum of what each kernel and each stored tensor loses at its width, its cost as
the sum over layers of what a table says for the widths of its Inputs, Weights and Outputs. So what is still to come depends
on the past only through the widths of open tensors: those that some layer has touched and a later one will touch again.
For every combination of their widths the partial assignments that no other beats are kept.

Where these get too many they are thinned, and the front states what that may have lost (`SurrogateFront.bounds`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mqjax.errors import InputError
from mqjax.mapper.table import CostTable
from mqjax.network.cost import layer_costs
from mqjax.network.dominance import prune
from mqjax.network.wiring import OUTPUT_WIDTH, Wiring
from mqjax.objectives import mapping_metric, objective_of
from mqjax.types import WIDTHS

_FLOOR = 1e-5
"""Share of the largest loss below which cells have an even width instead of an even ratio."""


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """Losses and costs of a network of L layers and T stored tensors, to be summed. Width axes are those of `WIDTHS`.

    kernels: float64 [L, 7] and tensors: float64 [T, 7], the loss at each width. costs: float64 [K, L, 7, 7, 7] of every
    layer by the widths of its Inputs, Weights and Outputs; inf where nothing fits.
    """

    wiring: Wiring
    kernels: np.ndarray
    tensors: np.ndarray
    costs: np.ndarray

    def __post_init__(self) -> None:
        layers, tensors, widths = len(self.wiring.layers), len(self.wiring.tensors), len(WIDTHS)
        shapes = {"kernels": (layers, widths), "tensors": (tensors, widths)}
        for name, shape in shapes.items():
            losses = getattr(self, name)
            if losses.shape != shape or not np.isfinite(losses).all():
                raise InputError(f"losses of {name} must be finite numbers of the shape {shape}, not {losses.shape}")
        if self.costs.ndim != 5 or self.costs.shape[1:] != (layers, widths, widths, widths) or not len(self.costs):
            raise InputError(f"costs must have the shape [K, {layers}, 7, 7, 7], not {list(self.costs.shape)}")
        if not (self.costs >= 0).all():
            raise InputError("costs of layers must not be negative")

    def loss(self, genomes: np.ndarray) -> np.ndarray:
        """Loss float64 [N] of genomes int [N, G]."""
        digits, wiring = np.asarray(genomes, np.int64) - WIDTHS[0], self.wiring
        total = np.zeros(len(digits))
        for losses, genes in ((self.kernels, wiring.kernel_genes), (self.tensors, wiring.tensor_genes)):
            for row, gene in zip(losses, genes, strict=True):
                total += row[digits[:, gene]]
        return total

    def cost(self, genomes: np.ndarray) -> np.ndarray:
        """Costs float64 [N, K] of genomes int [N, G], summed over the layers in order."""
        digits, wiring = np.asarray(genomes, np.int64) - WIDTHS[0], self.wiring
        output = np.full(len(digits), OUTPUT_WIDTH - WIDTHS[0])
        stored = [*digits[:, wiring.tensor_genes].T, output]
        total = np.zeros((len(self.costs), len(digits)))
        for layer, (reads, writes) in enumerate(zip(wiring.reads, wiring.writes, strict=True)):
            total += self.costs[:, layer, stored[reads], digits[:, wiring.kernel_genes[layer]], stored[writes]]
        return total.T


def summed_parts(objectives: Sequence[str]) -> list[str]:
    """Of the parts that the objectives of a search are made of the first two that are sums over layers."""
    parts = [part for name in objectives for part in objective_of(name).summed]
    return list(dict.fromkeys(parts))[:2]


def summed_costs(table: CostTable, objectives: Sequence[str], map_by: str | None = None) -> np.ndarray:
    """What the objectives of a search are made of, as far as it is a sum over layers, for `Surrogate.costs`: float64
    [K, L, 7, 7, 7] of the K parts in `summed_parts`."""
    metric = mapping_metric(objectives, map_by)
    shape = (len(table.layers), *(len(WIDTHS),) * 3)
    costs = [layer_costs(table, part, metric).reshape(shape) for part in summed_parts(objectives)]
    return np.array(costs).reshape(len(costs), *shape)


class SurrogateFront(NamedTuple):
    """Assignments that no other beats, by ascending last cost.

    bounds: of loss and of all costs but the last. For every assignment there is a member whose last cost is no higher,
    and whose bounds are no higher than the assignment's own loss and costs. Where nothing had to be thinned the
    bounds are the member's own values, and the front is exact.
    """

    genomes: np.ndarray  # int8 [F, G]
    loss: np.ndarray  # float64 [F]
    costs: np.ndarray  # float64 [F, K]
    bounds: np.ndarray  # float64 [F, K]

    @property
    def slack(self) -> np.ndarray:
        """By how much, float64 [K], loss and each cost but the last may exceed those of the exact front, at most."""
        return (np.column_stack([self.loss, self.costs[:, :-1]]) - self.bounds).max(axis=0)


class _Points(NamedTuple):
    """Partial assignments with equal widths of open tensors. number: of the first of them among all of this layer."""

    values: np.ndarray  # float64 [n, 1 + K], loss and costs
    bounds: np.ndarray  # float64 [n, K]
    number: int


class _Continuation(NamedTuple):
    """Every one of some points, continued in every one of some ways: n * m candidates, in that order."""

    points: _Points
    steps: np.ndarray  # float64 [m, 1 + K]
    choices: np.ndarray  # int8 [m, C]

    def values(self) -> np.ndarray:
        return (self.points.values[:, None] + self.steps).reshape(-1, self.steps.shape[1])

    def bounds(self) -> np.ndarray:
        return (self.points.bounds[:, None] + self.steps[:, :-1]).reshape(-1, self.steps.shape[1] - 1)


class _Record(NamedTuple):
    """How the points of one layer, all states after each other, came about."""

    genes: list[int]  # C genes that this layer decided
    choices: np.ndarray  # int8 [n, C], their widths as indices
    parents: np.ndarray  # int64 [n], points of the layer before


def surrogate_front(surrogate: Surrogate, *, most: int = 20_000) -> SurrogateFront:
    """The front over all assignments that fit. most: partial assignments to keep per layer, about; the more, the closer
    to exact. Raises `InputError` where no assignment fits."""
    wiring = surrogate.wiring
    widths = _useful_widths(surrogate)
    last = _last_layers(wiring)
    lowest = surrogate.kernels.min(axis=1).sum() + surrogate.tensors.min(axis=1).sum()
    highest = surrogate.kernels.max(axis=1).sum() + surrogate.tensors.max(axis=1).sum()
    floors = [max(_FLOOR * (highest - lowest), 1e-300), *(_cost_floor(costs) for costs in surrogate.costs[:-1])]
    count = len(surrogate.costs)
    start = np.zeros((1, 1 + count))
    fronts = {(): _Points(start, start[:, :-1], 0)}
    tensors: list[int] = []
    records: list[_Record] = []
    below = 0.0  # the least loss that is possible so far: cells are counted from there
    for layer in range(len(wiring.layers)):
        touched = dict.fromkeys((wiring.reads[layer], wiring.writes[layer]))
        new = [tensor for tensor in touched if tensor not in tensors and tensor < len(wiring.tensors)]
        below += surrogate.kernels[layer].min() + sum(surrogate.tensors[tensor].min() for tensor in new)
        known = [*tensors, *new]
        tensors = [tensor for tensor in known if last[tensor] > layer]
        parts: dict[tuple[int, ...], list[_Continuation]] = {}
        options: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        for state, points in fronts.items():
            for chosen in itertools.product(*(widths[tensor] for tensor in new)):
                at = dict(zip(known, (*state, *chosen), strict=True))
                at[len(wiring.tensors)] = OUTPUT_WIDTH - WIDTHS[0]
                ends = at[wiring.reads[layer]], at[wiring.writes[layer]]
                if ends not in options:
                    options[ends] = _kernel_options(surrogate, layer, *ends)
                steps, kernels = options[ends]
                if not len(steps):
                    continue
                losses = sum(float(surrogate.tensors[t, width]) for t, width in zip(new, chosen, strict=True))
                choices = np.column_stack([kernels, np.tile(np.array(chosen, np.int8), (len(kernels), 1))])
                part = _Continuation(points, steps + np.array([losses, *[0.0] * count]), choices)
                parts.setdefault(tuple(at[tensor] for tensor in tensors), []).append(part)
        if not parts:
            raise InputError(f"no assignment fits the accelerator: layer {wiring.layers[layer]!r} fits at no widths")
        floor = np.array([floors[0] - below, *floors[1:]])
        genes = [int(wiring.kernel_genes[layer]), *(int(wiring.tensor_genes[tensor]) for tensor in new)]
        fronts, record = _advance(parts, genes, max(16, most // len(parts)), floor)
        records.append(record)
    (points,) = fronts.values()
    return _summed_anew(surrogate, points, _assignments(surrogate, records))


def _useful_widths(surrogate: Surrogate) -> list[list[int]]:
    """Widths, as indices, of each stored tensor for which no other width loses less and costs less wherever it counts."""
    wiring = surrogate.wiring
    result = []
    for tensor, losses in enumerate(surrogate.tensors):
        columns = [losses[:, None]]
        for layer in range(len(wiring.layers)):
            if wiring.reads[layer] == tensor:
                columns.append(np.moveaxis(surrogate.costs[:, layer], 1, 0).reshape(len(WIDTHS), -1))
            if wiring.writes[layer] == tensor:
                columns.append(np.moveaxis(surrogate.costs[:, layer], 3, 0).reshape(len(WIDTHS), -1))
        result.append(_undominated(np.concatenate(columns, axis=1)))
    return result


def _undominated(rows: np.ndarray) -> list[int]:
    """Rows of [N, M] than which no other is nowhere higher; of equal rows the first."""
    lower = (rows[:, None] <= rows[None]).all(axis=2)
    beaten = lower & (~lower.T | np.tri(len(rows), k=-1, dtype=bool).T)
    return np.flatnonzero(~beaten.any(axis=0)).tolist()


def _last_layers(wiring: Wiring) -> list[int]:
    """The last layer that reads or writes each tensor; -1 for one that is only added to sums, which costs nothing."""
    last = [-1] * (len(wiring.tensors) + 1)
    for layer, ends in enumerate(zip(wiring.reads, wiring.writes, strict=True)):
        for tensor in ends:
            last[tensor] = layer
    return last


def _cost_floor(costs: np.ndarray) -> float:
    """A small part of a cost [L, 7, 7, 7], so that logarithms exist."""
    finite = costs[np.isfinite(costs)]
    return max(_FLOOR * float(finite.max(initial=0.0)), 1e-300)


def _kernel_options(surrogate: Surrogate, layer: int, reads: int, writes: int) -> tuple[np.ndarray, np.ndarray]:
    """Loss and costs float64 [m, 1 + K] of the kernel widths int8 [m] that fit and that no other width beats."""
    costs = surrogate.costs[:, layer, reads, :, writes].T
    values = np.column_stack([surrogate.kernels[layer], costs])
    fits = np.flatnonzero(np.isfinite(costs).all(axis=1))
    kept = fits[_undominated(values[fits])]
    return values[kept], kept.astype(np.int8)


def _advance(
    parts: dict[tuple[int, ...], list[_Continuation]], genes: list[int], most: int, floor: np.ndarray
) -> tuple[dict[tuple[int, ...], _Points], _Record]:
    """Prune the candidates of every state. most: to keep of each."""
    fronts, choices, parents, number = {}, [], [], 0
    for state, of_state in parts.items():
        values = np.concatenate([part.values() for part in of_state])
        kept, bounds = prune(values, np.concatenate([part.bounds() for part in of_state]), most, floor)
        fronts[state] = _Points(values[kept], bounds, number)
        number += len(kept)
        ends = np.cumsum([len(part.points.values) * len(part.steps) for part in of_state])
        which = np.searchsorted(ends, kept, side="right")
        ways = np.array([len(part.steps) for part in of_state])
        within = kept - np.concatenate([[0], ends[:-1]])[which]
        first = np.concatenate([[0], np.cumsum(ways)[:-1]])
        choices.append(np.concatenate([part.choices for part in of_state])[first[which] + within % ways[which]])
        parents.append(np.array([part.points.number for part in of_state])[which] + within // ways[which])
    return fronts, _Record(genes, np.concatenate(choices), np.concatenate(parents))


def _assignments(surrogate: Surrogate, records: list[_Record]) -> np.ndarray:
    """Genomes int8 [n, G] of the last layer's points, found backwards."""
    wiring = surrogate.wiring
    points = np.arange(len(records[-1].parents))
    genomes = np.zeros((len(points), wiring.genes), np.int8)
    # What no layer reads or writes costs nothing and takes the width of least loss.
    genomes[:, wiring.tensor_genes] = surrogate.tensors.argmin(axis=1)
    for record in reversed(records):
        genomes[:, record.genes] = record.choices[points]
        points = record.parents[points]
    return (genomes + WIDTHS[0]).astype(np.int8)


def _summed_anew(surrogate: Surrogate, points: _Points, genomes: np.ndarray) -> SurrogateFront:
    """The front with values summed anew in a fixed order, so that they equal `Surrogate.loss` and `Surrogate.cost`."""
    values = np.column_stack([surrogate.loss(genomes), surrogate.cost(genomes)])
    # The last digits of sums depend on their order; a bound must not profit from that.
    shift = values[:, :-1] - points.values[:, :-1]
    kept, bounds = prune(values, points.bounds + shift, len(values), np.zeros(values.shape[1] - 1))
    return SurrogateFront(genomes[kept], values[kept, 0], values[kept, 1:], bounds)
