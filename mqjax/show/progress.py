"""What the commands show to people: progress bars on a terminal (silence elsewhere), and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class _Rate(ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f} {self.unit}/s" if task.speed else "")


SPOKEN_EVERY = 10.0
"""Seconds between lines about work that goes on, where there is no terminal."""


class Bar:
    """A `mqjax.progress.Progress` on standard error: a bar on a terminal; elsewhere a line now and then, as long as the work
    says what it does."""

    def __init__(self, title: str, total: int, unit: str, drawn: rich.progress.Progress | None) -> None:
        self._title, self._total, self._unit, self._done = title, total, unit, 0
        self._drawn, self._spoken = drawn, time.monotonic()
        self._task = rich.progress.TaskID(0) if drawn is None else drawn.add_task(title, total=total, note="")

    def say(self, note: str) -> None:
        """Tell what is being done: behind the bar or, where there is no terminal, in a line."""
        if self._drawn is not None:
            self._drawn.update(self._task, note=note)
        elif time.monotonic() - self._spoken >= SPOKEN_EVERY:
            self._spoken = time.monotonic()
            done = f"{self._done:,} of {self._total:,} {self._unit}"
            print(f"{self._title}: {done}, {note}", file=sys.stderr, flush=True)

    def advance(self, units: int = 1) -> None:
        """Count `units` more as done."""
        self._done += units
        if self._drawn is not None:
            self._drawn.advance(self._task, units)


@contextmanager
def bar(title: str, total: int, unit: str) -> Iterator[Bar]:
    """Progress over `total` units."""
    if not sys.stderr.isatty():
        yield Bar(title, total, unit, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True)) as drawn:
        yield Bar(title, total, unit, drawn)


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output: the first column to the left, numbers to the right, never cut off."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    needed = Console(width=10_000).measure(table).maximum
    (console if console.is_terminal and needed <= console.width else Console(width=max(needed, 40))).print(table)
