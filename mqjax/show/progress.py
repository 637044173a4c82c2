"""What the commands show to people: progress bars on a terminal (silence elsewhere), and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
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
    """One line of progress; `advance` and `update` do nothing where there is no terminal."""

    def __init__(self, progress: Progress | None, task: int, title: str = "") -> None:
        self._progress, self._task, self._title = progress, task, title
        self._spoken = time.monotonic()

    def say(self, note: str) -> None:
        """Tell what is being done: behind the bar or, where there is no terminal, in a line every ten seconds."""
        if self._progress is not None:
            self._progress.update(self._task, note=note)  # type: ignore[arg-type]
        elif time.monotonic() - self._spoken >= SPOKEN_EVERY:
            self._spoken = time.monotonic()
            print(f"{self._title}: {note}", file=sys.stderr, flush=True)

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more units as done."""
        if self._progress is not None:
            self._progress.advance(self._task, steps)  # type: ignore[arg-type]

    def update(self, completed: int, note: str = "") -> None:
        """Set the number of units done, and a note behind the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=completed, note=note)  # type: ignore[arg-type]


@contextmanager
def bar(title: str, total: int, unit: str) -> Iterator[Bar]:
    """A progress bar on standard error over `total` units."""
    if not sys.stderr.isatty():
        yield Bar(None, 0, title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, progress.add_task(title, total=total, note=""))


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
