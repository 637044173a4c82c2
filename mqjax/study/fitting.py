"""A surrogate whose losses are fitted to losses that were measured of whole assignments.

What genes lose alone is not what they lose together: each entry of the surrogate gets a factor, and the sum a power, so that
the logarithms agree. Both are drawn to one by a ridge, so that a few hundred measurements do for more factors than that.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from mqjax.study.surrogate import Surrogate
from mqjax.types import WIDTHS

_RIDGE = 0.1
"""Weight of a factor's squared logarithm against the squared misfit of a measurement's."""

_NOISE = 0.05
"""Differences of losses below this share of the least loss are not told apart."""

_STEPS = 300


class Fitted(NamedTuple):
    """Of genomes whose losses sum to s, exp(offset + slope * log(s)) beyond `least` is expected."""

    surrogate: Surrogate
    least: float
    offset: float
    slope: float

    def expected(self, genomes: np.ndarray) -> np.ndarray:
        """Loss float64 [N] of genomes int [N, G], in the unit of the measurements."""
        return self.least + np.exp(self.offset + self.slope * np.log(self.surrogate.loss(genomes)))


def losses_by_gene(surrogate: Surrogate) -> np.ndarray:
    """Loss float64 [G, 7] of every gene at every width, beyond that at its best width."""
    wiring = surrogate.wiring
    result = np.zeros((wiring.genes, len(WIDTHS)))
    result[wiring.kernel_genes] = surrogate.kernels - surrogate.kernels.min(axis=1, keepdims=True)
    result[wiring.tensor_genes] = surrogate.tensors - surrogate.tensors.min(axis=1, keepdims=True)
    return result


def losses_alone(by_gene: np.ndarray, genomes: np.ndarray) -> np.ndarray:
    """What every gene of genomes int [N, G] loses at its width, float64 [N, G], by losses float64 [G, 7]."""
    return by_gene[np.arange(len(by_gene)), np.asarray(genomes, np.int64) - WIDTHS[0]]


def fitted(surrogate: Surrogate, genomes: np.ndarray, losses: np.ndarray) -> Fitted:
    """Fit to the measured losses float64 [N], not all equal, of genomes int [N, G]."""
    digits = np.asarray(genomes, np.int64) - WIDTHS[0]
    least = float(losses.min())
    noise = max(_NOISE * least, 1e-5 * float(losses.max()))
    alone = losses_by_gene(surrogate)
    sums = losses_alone(alone, genomes).sum(axis=1)
    # Where nothing was lost alone a factor needs something to work on.
    alone = alone + 1e-4 * max(float(np.median(sums)), 1e-300)
    sums = losses_alone(alone, genomes).sum(axis=1)
    target = np.log(losses - least + noise)
    seen = losses - least > noise
    slope, offset = np.polyfit(np.log(sums[seen]), target[seen], 1) if seen.sum() > 2 else (1.0, 0.0)
    start = {
        "genes": np.zeros(len(alone)),
        "widths": np.zeros(alone.shape),
        "offset": np.float64(offset),
        "slope": np.float64(max(slope, 0.2)),
    }
    # Rows are padded, so that rounds of different sizes share a compiled program.
    rows = 1 << max(8, int(len(digits) - 1).bit_length())
    padded = [np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)) for array in (digits, target)]
    with jax.enable_x64(True):
        found = jax.device_get(_solve(start, alone, *padded, np.arange(rows) < len(digits), np.log(noise)))
    alone = alone * np.exp(found["genes"][:, None] + found["widths"])
    wiring = surrogate.wiring
    changed = Surrogate(wiring, alone[wiring.kernel_genes], alone[wiring.tensor_genes], surrogate.costs)
    return Fitted(changed, least, float(found["offset"]), float(found["slope"]))


@partial(jax.jit)
def _solve(start: dict[str, Array], alone: Array, digits: Array, target: Array, counts: Array, noise: Array) -> dict:
    """Parameters that minimise squared misfits and ridge, by L-BFGS."""
    genes = jnp.arange(len(alone))

    def misfit(parameters: dict[str, Array]) -> Array:
        entries = alone * jnp.exp(parameters["genes"][:, None] + parameters["widths"])
        logs = parameters["offset"] + parameters["slope"] * jnp.log(entries[genes, digits].sum(axis=1))
        wrong = jnp.where(counts, jnp.logaddexp(logs, noise) - target, 0.0)
        ridge = (parameters["genes"] ** 2).sum() + (parameters["widths"] ** 2).sum()
        return (wrong**2).sum() + _RIDGE * ridge

    solver = optax.lbfgs()
    valued = optax.value_and_grad_from_state(misfit)

    def step(_: int, carry: tuple) -> tuple:
        parameters, state = carry
        value, gradient = valued(parameters, state=state)
        updates, state = solver.update(gradient, state, parameters, value=value, grad=gradient, value_fn=misfit)
        return optax.apply_updates(parameters, updates), state

    return jax.lax.fori_loop(0, _STEPS, step, (start, solver.init(start)))[0]
