"""Numbered checkpoints by orbax, of which the latest readable one counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def open_manager(folder: Path) -> ocp.CheckpointManager:
    """A manager that keeps the last two steps in `folder`, so that a torn one costs one step only."""
    return ocp.CheckpointManager(Path(folder).absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2))


def restore_latest(manager: ocp.CheckpointManager, args: ocp.args.CheckpointArgs) -> tuple[int, Any] | None:
    """The number and content of the latest step that can be read, or `None`. Later, torn steps are deleted: the
    manager would not write them again."""
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            return step, manager.restore(step, args=args)
        except Exception:
            manager.delete(step)
    return None
