"""Sizes for GPUs, without one: the same answers, programs that lower for CUDA, and memory by the compiler's own analysis.

Guards: README.md, "What is exact, and what is a model".
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import export

from mqjax.cost.packing import packing_boxes
from mqjax.mapper import programs, sweep
from mqjax.mapper.limits import Limiter
from mqjax.mapper.optimum import solve
from mqjax.mapper.sweep import SIZES_BY_PLATFORM, Sizes, Sweeper
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, BitWidths, Layer, all_widths

LAYER = Layer(C=16, M=32, P=14, Q=7, name="some")
BITS = [*all_widths(), BitWidths()]
MEMORY = 8 * 2**30


def calls(sweeper: Sweeper) -> dict[str, tuple]:
    """Every program of the sweep with the arguments that a job gives it."""
    sizes, space = sweeper.sizes, sweeper.space
    job, rows = next(sweeper.jobs()), sweeper.sample(1).take(slice(1))
    block, chosen = sweeper._tables(job.block, None), sweeper.chosen_tables(rows)
    packed = tuple(box.packed for box in sweeper.boxes)
    limits = tuple(
        Limiter(box, space.layer.macs).limits(np.ones((len(box.triples), len(METRICS)))) for box in sweeper.boxes
    )
    open_ = tuple(np.ones((*box.shape, len(METRICS))) for box in sweeper.boxes)
    zero, one = np.int64(0), np.int64(1)
    return {
        "screen": (programs.screen, sweeper.plan, block, limits, zero, one, sweeper.size, sizes.chunks, False),
        "screen of open triples": (
            programs.screen,
            sweeper.plan,
            block,
            limits,
            zero,
            one,
            sweeper.size,
            sizes.chunks,
            True,
        ),
        "minima": (programs.minima, sweeper.plan, block, packed, zero, one, sweeper.size, sizes.chunks),
        "minima of chosen": (programs.minima, sweeper._flat, chosen, packed, zero, one, sweeper.chosen_size, 1),
        "candidates": (programs.candidates, sweeper._flat, chosen, packed, open_, sweeper.chosen_size),
        "priced": (programs.priced, sweeper.plan, block, packed, zero, sweeper.size),
    }


@pytest.mark.parametrize("name", ["eyeriss", "simba"])
def test_programs_lower_for_cuda_and_fit_its_memory(name, archs):
    space = Mapspace(archs[name], LAYER)
    sweeper = Sweeper(space, packing_boxes(space.arch, BITS), SIZES_BY_PLATFORM["gpu"])
    with jax.enable_x64(True):
        for what, (program, *arguments) in calls(sweeper).items():
            exported = export.export(program, platforms=["cuda"])(*arguments)
            assert "custom_call" not in exported.mlir_module(), what
            analysis = program.lower(*arguments).compile().memory_analysis()
            needed = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
            assert 0 < needed < MEMORY, what


def test_answers_do_not_depend_on_sizes(archs, monkeypatch):
    space = Mapspace(archs["simba"], LAYER)
    here = solve(space, BITS)
    monkeypatch.setitem(sweep.SIZES_BY_PLATFORM, "cpu", Sizes(2**9, 2**10, 2**8, 2**10, 3))
    there = solve(Mapspace(archs["simba"], LAYER), BITS)
    for field in ("energy_pj", "cycles", "index", "valid"):
        np.testing.assert_array_equal(getattr(here, field), getattr(there, field))
    assert here.mappings == there.mappings and there.covered
