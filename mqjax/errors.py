"""The one exception that means "your input, not our code": the command line turns it into exit status 2."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Bad input from the user. The message is one sentence that names the file, line, key or layer at fault
    and says what would be right."""


def meant(name: Any, known: Iterable[str]) -> str:
    """The words "did you mean 'energy'?" where `name` nearly is one of `known`, in whatever case; else nothing."""
    spellings = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower()[:100], spellings, n=1, cutoff=0.7)
    return f"; did you mean {spellings[near[0]]!r}?" if near else ""


def unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    """What is said of a name that is none of `known`: which they are, and which one was probably meant."""
    known = list(known)
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return f"unknown {kind} {short.repr(name)}; it must be one of {', '.join(known)}{meant(name, known)}"
