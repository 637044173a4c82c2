"""How a long piece of work tells how far it is: one record that every such function of the package takes as `progress`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Told how far a piece of work is; `mqjax.show.progress.Bar` draws it."""

    def advance(self, units: int = 1) -> None:
        """`units` more are done."""

    def say(self, note: str) -> None:
        """What is being done now."""


class _Silent:
    """Draws nothing."""

    def advance(self, units: int = 1) -> None: ...

    def say(self, note: str) -> None: ...


SILENT: Progress = _Silent()


Bars = Callable[[str, int, str], contextlib.AbstractContextManager[Progress]]
"""Begins a piece of work that has several: its title, number of units, and their name."""


def no_bars(title: str, total: int, unit: str) -> contextlib.AbstractContextManager[Progress]:
    """Draws nothing, whatever begins."""
    return contextlib.nullcontext(SILENT)


class Part:
    """Passes on what a part of the work says, behind its name; counts nothing, for the whole counts its parts."""

    def __init__(self, whole: Progress, name: str) -> None:
        self._whole, self._name = whole, name

    def advance(self, units: int = 1) -> None: ...

    def say(self, note: str) -> None:
        self._whole.say(f"{self._name}: {note}")
