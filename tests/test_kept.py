"""Programs whose traced form outlives the process.

Guards: docs/PERFORMANCE.md, "Where the time goes".
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mqjax.kept import Kept

TRACED = []


class Pair(NamedTuple):
    a: np.ndarray
    b: tuple[np.ndarray, ...]


@partial(jax.jit, static_argnames=("power", "shift"))
def powers(power: int, pair: Pair, shift: int):
    TRACED.append(power)
    return pair.a**power + shift, (jnp.sum(pair.b[0]), pair.b[1])


@pytest.fixture
def folder(tmp_path):
    TRACED.clear()
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "kept"
    jax.config.update("jax_compilation_cache_dir", before)


def kept() -> Kept:
    """As a new process has it."""
    return Kept(powers, ("power", "shift"))


def assert_right(program: Kept, power: int = 2, size: int = 3) -> None:
    a = np.arange(size, dtype=np.float64)
    with jax.enable_x64(True):
        raised, (total, same) = program(power, Pair(a, (a, a[:1])), 1)
    np.testing.assert_array_equal(raised, a**power + 1)
    assert raised.dtype == np.float64 and float(total) == a.sum()
    np.testing.assert_array_equal(same, a[:1])


def test_another_process_does_not_trace_again(folder):
    for _ in range(2):
        program = kept()
        assert_right(program)
        assert_right(program)
        assert len(program) == 1
    assert TRACED == [2] and len(list(folder.iterdir())) == 1


def test_other_values_and_shapes_are_other_programs(folder):
    program = kept()
    for power, size in ((2, 3), (3, 3), (2, 4)):
        assert_right(program, power, size)
    assert TRACED == [2, 3, 2] and len(list(folder.iterdir())) == len(program) == 3


@pytest.mark.parametrize("change", [lambda found: b"", lambda found: found[:-3], lambda found: found[:40] + b"\0" * 99])
def test_damaged_files_are_made_anew(folder, change):
    assert_right(kept())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    assert_right(kept())
    assert TRACED == [2, 2] and path.read_bytes() != change(whole)


def test_another_version_of_the_package_traces_anew(folder, monkeypatch):
    assert_right(kept())
    monkeypatch.setattr("mqjax.kept._sources", lambda: "another")
    assert_right(kept())
    assert TRACED == [2, 2] and len(list(folder.iterdir())) == 2


def test_nothing_is_kept_where_jax_keeps_nothing(folder):
    jax.config.update("jax_compilation_cache_dir", None)
    program = kept()
    assert_right(program)
    assert not folder.exists() and not len(program)


def test_a_folder_that_cannot_be_made_is_no_obstacle(folder):
    folder.write_text("a file in its place")
    program = kept()
    assert_right(program)
    assert len(program) == 1 and folder.is_file()
