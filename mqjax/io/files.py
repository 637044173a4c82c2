"""Files that outlive a process: where they are kept, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def cache_folder() -> Path:
    """Where the commands keep tables, accuracies and compiled programs: $MQJAX_CACHE, else $XDG_CACHE_HOME/mqjax,
    else ~/.cache/mqjax."""
    if "MQJAX_CACHE" in os.environ:
        return Path(os.environ["MQJAX_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mqjax"


class AppendedTable:
    """Text keys with float values, kept in a file to which lines are appended; without a path, in memory only.

    A line counts only if it is complete, so a process may be killed while it writes; two processes may append at once.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._values: dict[str, float] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text(errors="replace").split("\n"):
                match = re.fullmatch(r"(\w+),([-+.\de]+);", line)
                if match:
                    self._values[match[1]] = float(match[2])

    def get(self, key: str) -> float | None:
        """The value of `key`, if known."""
        return self._values.get(key)

    def add(self, key: str, value: float) -> None:
        """Store a value, at once."""
        self._values[key] = value
        if self._path is not None:
            with open(self._path, "a") as file:
                # The line break comes first too, in case the last line was torn.
                file.write(f"\n{key},{value!r};\n")
