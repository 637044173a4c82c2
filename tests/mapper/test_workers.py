"""Processes that prove side by side return what one would, whatever becomes of them.

Guards: docs/PERFORMANCE.md, "Proofs of large spaces".
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mqjax.errors import InputError
from mqjax.mapper.table import cost_table, layer_table
from mqjax.mapper.workers import side_by_side
from mqjax.types import Layer


def square_here_or_there(here: int, killed: int, item: int) -> tuple[int, bool]:
    """The square of an item, and whether this is process `here`; one item is the end of any other process."""
    if item == killed and os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    if item < 0:
        raise InputError(f"{item} is negative")
    return item * item, os.getpid() == here


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr("loky.cpu_count", lambda: 2)


def test_results_come_in_order_from_other_processes():
    work = functools.partial(square_here_or_there, os.getpid(), -1)
    assert list(side_by_side(work, range(5))) == [(n * n, False) for n in range(5)]
    assert list(side_by_side(work, [3])) == [(9, True)] and list(side_by_side(work, [])) == []


def test_what_a_killed_process_leaves_is_done_here():
    work = functools.partial(square_here_or_there, os.getpid(), 2)
    found = list(side_by_side(work, range(5)))
    assert [square for square, _ in found] == [0, 1, 4, 9, 16] and found[2] == (4, True)


def in_a_daemon(here: int, results: multiprocessing.SimpleQueue) -> None:
    results.put(list(side_by_side(functools.partial(square_here_or_there, here, -1), [1, 2])))


def test_a_process_that_may_have_no_children_does_all_itself():
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=in_a_daemon, args=(os.getpid(), results), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0 and results.get() == [(1, False), (4, False)]


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def proving(pids: multiprocessing.SimpleQueue) -> None:
    for pid in side_by_side(pid_after, [0.5, 0.5, 600, 600]):
        pids.put(pid)


def test_no_process_is_left_of_one_that_was_killed():
    context = multiprocessing.get_context("spawn")
    pids = context.SimpleQueue()
    process = context.Process(target=proving, args=(pids,))
    process.start()
    workers = {pids.get(), pids.get()}
    process.kill()
    process.join()
    started = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < started + 60
        time.sleep(0.1)


def test_errors_come_through():
    with pytest.raises(InputError, match="-1 is negative"):
        list(side_by_side(functools.partial(square_here_or_there, os.getpid(), 9), [1, -1, 2]))


def test_tables_are_those_of_one_process(archs, tmp_path):
    """Some of them cached, by three metrics at all triples."""
    layers = [Layer(C=4, M=8, P=4, Q=4, R=3), Layer(C=2, M=3, P=4), Layer(C=8, M=2, P=2, S=3)]
    layer_table(archs["simba"], layers[1], constraints="arch", cache=tmp_path)
    table = cost_table(archs["simba"], layers, constraints="arch", cache=tmp_path)
    assert table.covered and len(list((tmp_path / "tables").iterdir())) == 3
    for layer, found in zip(layers, table.tables, strict=True):
        alone = layer_table(archs["simba"], layer, constraints="arch")
        np.testing.assert_array_equal(found.energy_pj, alone.energy_pj)
        np.testing.assert_array_equal(found.cycles, alone.cycles)
        assert found.mappings == alone.mappings
