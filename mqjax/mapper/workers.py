"""Processes that prove optima side by side: proofs are many small NumPy steps, of which threads of one process run one at a time."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import loky

Item = TypeVar("Item")
Result = TypeVar("Result")

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # an accelerator is for one process
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], here: Callable[[Item], Result] | None = None
) -> Iterator[Result]:
    """`work` of every item, in order, in as many processes as there are CPUs to use; all must be picklable. What `work` raises
    ends all.

    here: does the same in this process, which has single items to itself, and those of a process that is killed, for want of
    memory, say; it need not be picklable.
    """
    here = here or work
    count = min(loky.cpu_count(), len(items))
    if count < 2 or multiprocessing.current_process().daemon:  # which may have no children
        yield from map(here, items)
        return
    pool = loky.get_reusable_executor(
        max_workers=count, env=ENVIRONMENT, initializer=_end_with, initargs=(os.getpid(),)
    )
    try:
        futures = [pool.submit(work, item) for item in items]
        for item, future in zip(items, futures, strict=True):
            try:
                found = future.result()
            except BrokenProcessPool:
                found = here(item)
            yield found
    except BaseException:
        pool.shutdown(wait=False, kill_workers=True)
        raise


def _end_with(parent: int) -> None:
    """End this process, a child of `parent`, soon after that is killed; it would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
