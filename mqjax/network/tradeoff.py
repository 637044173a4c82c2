"""Energy against delay of a whole network at given widths: the front of the sums over its layers.

Layers run one after the other, so energies and cycles add up, and a mapping of each layer's own Pareto set is as good as
any other: merged layer by layer, with what some other sum beats dropped, the sets give the network's front. Its least
energy times delay is the network's true least EDP, which mappings that are optimal by the EDP of each layer alone miss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mqjax.mapper.tradeoff import Tradeoff
from mqjax.network.dominance import prune

MOST = 2**18
"""Sums to keep after each layer, about; where there are more they are thinned."""


@dataclasses.dataclass(frozen=True)
class NetworkTradeoff:
    """The front of a network's total energy and cycles, the fastest first: F points.

    choices: which member of each layer's Pareto set. slack_pj: by how much energies may exceed those of the exact front;
    0 where nothing had to be thinned.
    """

    energy_pj: np.ndarray  # float64 [F]
    cycles: np.ndarray  # int64 [F], ascending
    choices: np.ndarray  # int32 [F, L]
    slack_pj: float

    @property
    def edp(self) -> np.ndarray:
        """Energy-delay product, pJ * cycles, float64 [F]."""
        return self.energy_pj * self.cycles

    @property
    def edp_bound(self) -> float:
        """A number that the EDP of no choice of mappings is below."""
        return float(((self.energy_pj - self.slack_pj) * self.cycles).min())


def least_edp_of_layers(layers: Sequence[Tradeoff]) -> tuple[float, int]:
    """Total energy (pJ) and cycles with the mapping of least EDP of every layer alone."""
    best = [int((layer.energy_pj * layer.cycles).argmin()) for layer in layers]
    energy = sum(float(layer.energy_pj[i]) for layer, i in zip(layers, best, strict=True))
    return energy, sum(int(layer.cycles[i]) for layer, i in zip(layers, best, strict=True))


def network_tradeoff(layers: Sequence[Tradeoff], *, most: int = MOST) -> NetworkTradeoff:
    """The front over all choices of one member of each layer's set; equal layers are given several times.

    most: sums to keep after each layer, about.
    """
    values, bounds = np.zeros((1, 2)), np.zeros((1, 1))  # energy, cycles
    records = []
    floor = np.array([1e-6 * sum(float(layer.energy_pj.min()) for layer in layers)])
    for layer in layers:
        steps = np.column_stack([layer.energy_pj, layer.cycles.astype(np.float64)])
        sums = (values[:, None] + steps).reshape(-1, 2)
        kept, bounds = prune(sums, (bounds[:, None] + steps[:, :1]).reshape(-1, 1), most, floor)
        values = sums[kept]
        records.append(np.divmod(kept, len(steps)))
    choices = np.empty((len(values), len(layers)), np.int32)
    place = np.arange(len(values))
    for number in reversed(range(len(layers))):
        before, chosen = records[number]
        choices[:, number] = chosen[place]
        place = before[place]
    return NetworkTradeoff(
        values[:, 0], values[:, 1].astype(np.int64), choices, float((values[:, 0] - bounds[:, 0]).max())
    )
