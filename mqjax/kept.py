"""Compiled functions whose traced form outlives the process.

JAX's compilation cache keeps what XLA makes of a program; tracing and lowering it to StableHLO, which take as long as
everything else that a small job does, would be repeated in every process. Their result is kept beside that cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from mqjax.io.files import write_atomically

_DIGEST = hashlib.sha256().digest_size


class Kept:
    """Calls a jitted function of arrays, and keeps its traced form where JAX keeps compiled programs, if it does so.

    static: names of the arguments that are no trees of arrays; their `repr` must tell all that distinguishes them. options:
    of the compiler. Tuples and lists may come out, and named tuples that `jax.export` knows.
    """

    def __init__(self, program: Any, static: Sequence[str] = (), options: dict[str, Any] | None = None) -> None:
        self.program, self._static, self._options = program, tuple(static), options
        self._signature = inspect.signature(program)
        self._lock = threading.Lock()
        self._known: dict[Any, Callable[..., Any]] = {}

    def __len__(self) -> int:
        """Of how many programs the traced form was made or read by this process."""
        return len(self._known)

    def __call__(self, *args: Any) -> Any:
        folder: str | None = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        if folder is None:
            return self.program(*args)
        arrays = self._signature.bind(*args).arguments
        static = {name: arrays.pop(name) for name in self._static}
        leaves, tree = jax.tree.flatten(arrays)
        key = tuple(static.values()), tree, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._compiled(Path(folder) / "kept", static, tree, leaves)
        return self._known[key](*leaves)

    def _compiled(self, folder: Path, static: dict[str, Any], tree: Any, leaves: list[Any]) -> Callable[..., Any]:
        shapes = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
        versions = _sources(), jax.__version__, jax.default_backend()
        text = repr((versions, static, str(tree), [(s.shape, s.dtype.name) for s in shapes]))
        path = folder / f"{self.program.__name__}-{hashlib.sha256(text.encode()).hexdigest()}"
        traced = _read(path)
        if traced is None:

            def of_leaves(*leaves: Any) -> Any:
                # Only the outermost function may have options of the compiler.
                return inspect.unwrap(self.program)(**jax.tree.unflatten(tree, leaves), **static)

            traced = export.export(jax.jit(of_leaves))(*shapes)
            content = bytes(traced.serialize())
            with contextlib.suppress(OSError):  # as JAX goes on where it cannot write
                write_atomically(path, hashlib.sha256(content).digest() + content)

        def call(*leaves: Any) -> Any:
            return traced.call(*leaves)

        call.__name__ = self.program.__name__  # by which JAX names what it keeps
        return jax.jit(call, compiler_options=self._options)


def _read(path: Path) -> export.Exported | None:
    """What was kept; `None` where it is missing, damaged or unreadable."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    digest, content = found[:_DIGEST], found[_DIGEST:]
    return export.deserialize(bytearray(content)) if hashlib.sha256(content).digest() == digest else None


@cache
def _sources() -> str:
    """A digest of this package: another version of it traces anew."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
