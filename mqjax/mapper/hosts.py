"""Several processes, on one or several hosts, that share the work of one table (`jax.distributed`)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from mqjax.errors import InputError


def join_hosts(coordinator: str, count: int, index: int) -> None:
    """Make this process number `index` of `count`; waits for the others. coordinator: "HOST:PORT" of process 0.

    Must come before any other use of JAX's devices. Raises `InputError` for impossible numbers, and where the others do
    not appear.
    """
    if not 0 <= index < count:
        raise InputError(f"the process id must lie in 0..{count - 1} for {count} processes, not {index}")
    if ":" not in coordinator:
        raise InputError(f"the coordinator address must be HOST:PORT, not {coordinator!r}")
    try:
        jax.distributed.initialize(coordinator, count, index)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"process {index} of {count} could not join {coordinator}: {error}") from error


def gather(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each of the arrays as all processes pass it, [processes, ...]. All processes must call this, with arrays of equal
    shapes and dtypes."""
    # One message of bytes, which no process can round to another precision on the way.
    raw = np.frombuffer(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(raw)).reshape(jax.process_count(), len(raw))
    parts = np.split(gathered, np.cumsum([array.nbytes for array in arrays])[:-1], axis=1)
    return [
        np.ascontiguousarray(part).view(array.dtype).reshape(-1, *array.shape)
        for part, array in zip(parts, arrays, strict=True)
    ]
