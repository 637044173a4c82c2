"""A progress that remembers what it was told, and interrupts the work where a test asks for it."""

from __future__ import annotations


class Recorder:
    """What was told: `advances`, the units done after each of them; `notes`. At `stop` units it raises KeyboardInterrupt."""

    def __init__(self, stop: int | None = None) -> None:
        self.advances: list[int] = []
        self.notes: list[str] = []
        self._stop = stop

    @property
    def done(self) -> int:
        return self.advances[-1] if self.advances else 0

    def advance(self, units: int = 1) -> None:
        self.advances.append(self.done + units)
        if self.done == self._stop:
            raise KeyboardInterrupt

    def say(self, note: str) -> None:
        self.notes.append(note)
