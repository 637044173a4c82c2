"""What each of an accelerator's own constraints costs a network: its layers mapped with it lifted, alone and with all others.

An accelerator's constraints say what its hardware can do: which dimensions a fan-out spreads, which loops a scratchpad
may have. A lifted one asks what hardware without it would need, at the same energies per access.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mqjax.arch import Arch, Constraint
from mqjax.mapper.best import solve_layer
from mqjax.mapper.optima import nothing_fits
from mqjax.progress import SILENT, Part, Progress
from mqjax.types import METRICS, SECONDS, BitWidths, Layer

AS_BUILT, ALL = "none lifted", "all lifted"


@dataclasses.dataclass(frozen=True)
class Lifting:
    """A network's costs with some constraints lifted. Axis L: the network's layers, in order.

    lifted: what is lifted. energy_pj: float64 [L]; cycles: int64 [L]; proven: bool [L], where it is not, the best that was
    found within the time, so that the constraint may cost more.
    """

    lifted: str
    energy_pj: np.ndarray
    cycles: np.ndarray
    proven: np.ndarray

    def cost(self, metric: str) -> np.ndarray:
        """What was minimised of each layer: pJ, pJ * cycles or cycles, float64 [L]."""
        return {"energy": self.energy_pj, "edp": self.energy_pj * self.cycles, "delay": self.cycles}[metric].astype(
            np.float64
        )


def constraint_line(rule: Constraint) -> str:
    """A constraint in a line, such as "GlobalBuffer spatial R=1 S=1"."""
    factors = [f"{dim}={factor or 'all'}" for dim, factor in rule.factors]
    factors += [f"{dim}<={most}" for dim, most in rule.max_factors]
    return " ".join([rule.level, "spatial" if rule.spatial else "temporal", *factors])


def without(arch: Arch) -> list[tuple[str, Arch]]:
    """The accelerator as it is, with each of its constraints lifted alone, and with all lifted."""
    rules = arch.arch_constraints
    alone = [(constraint_line(rule), (*rules[:i], *rules[i + 1 :])) for i, rule in enumerate(rules)]
    choices = [(AS_BUILT, rules), *alone, *([(ALL, ())] if len(rules) > 1 else [])]
    return [(name, dataclasses.replace(arch, arch_constraints=kept, paper_constraints=())) for name, kept in choices]


def lift_constraints(
    arch: Arch,
    layers: Sequence[Layer],
    bits: BitWidths,
    *,
    metric: str = "energy",
    pad: int | None = 0,
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> list[Lifting]:
    """Costs of the best mappings of `layers` at `bits` for every way of `without`, the accelerator as it is first.

    A mapping that one way allows is allowed by every other that lifts more, so what was found for an unproven layer is
    never worse than with fewer constraints lifted. pad, seconds: see `mqjax.mapper.best.solve_layer`.
    Raises `InputError` where no mapping fits.
    """
    arch.check_widths(bits, layers[0])
    found: list[Lifting] = []
    for lifted, loose in without(arch):
        costs = {}
        for layer in dict.fromkeys(layers):
            solution = solve_layer(
                loose, layer, [bits], constraints="arch", pad=pad, seconds=seconds,
                progress=Part(progress, f"{lifted}: {layer.name}"),
            )  # fmt: skip
            if solution.index[METRICS.index(metric), 0] < 0:
                raise nothing_fits(layer, solution.space, bits, covered=solution.covered)
            best = solution.optimum(metric, 0)
            costs[layer] = best.energy_pj, best.cycles, best.covered
            progress.advance()
        energy, cycles, proven = (np.array(values) for values in zip(*(costs[layer] for layer in layers), strict=True))
        found.append(_at_least_as_good(Lifting(lifted, energy, cycles, proven), found, metric))
    return found


def _at_least_as_good(new: Lifting, found: list[Lifting], metric: str) -> Lifting:
    """`new`, with the mappings of ways that lift less where those are better: none lifted or, where all are, any."""
    for other in found if new.lifted == ALL else found[:1]:
        better = other.cost(metric) < new.cost(metric)
        if (better & new.proven).any():
            raise RuntimeError(f"{new.lifted}: proven optima are above those of {other.lifted}")
        new = dataclasses.replace(
            new,
            energy_pj=np.where(better, other.energy_pj, new.energy_pj),
            cycles=np.where(better, other.cycles, new.cycles),
        )
    return new
