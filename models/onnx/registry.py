"""Where the functions that read ops are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mqjax.models.onnx.values import Value

if TYPE_CHECKING:
    from mqjax.models.onnx.reader import Reader

    Handler = Callable[[Reader, Any], Value]

ANY = ("NCHW", "NHWC", "features")
"""Layouts."""


class Handlers(dict[str, "Handler"]):
    """What reads each op: a function of the reader and a node, which returns what the node's output is."""

    def of(self, *ops: str) -> Callable[[Handler], Handler]:
        """Register a function for these ops."""

        def register(function: Handler) -> Handler:
            self.update(dict.fromkeys(ops, function))
            return function

        return register
