"""The graph and the weights of a Flax NNX module, from its trace.

What computes the module's logits is read op by op; layers are named after the variable that holds their kernel. Constants that
are added or multiplied, which batch norms are at inference, go into the layer before them. What each op becomes is written
in `mqjax.models.traced.handlers`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from flax import nnx

from mqjax.errors import InputError
from mqjax.models.importing import Assembly, Imported, Skipped
from mqjax.models.ops import Activation, Image, Op, Shape
from mqjax.models.traced.program import Equation, Program, trace

GATE = ("x + 3", "relu6(x + 3)", "relu6(x + 3) / 6", "x * relu6(x + 3)")
"""Steps of a hard swish that is written out."""

PENDING = {
    "padding": "what is padded must be read by a convolution or an average pool",
    "affine": "an image that is scaled or shifted must be read by convolutions alone",
    "sum": "a sum over pixels must be divided by their number, for a mean",
    "gate": "x * relu6(x + 3) / 6 is supported, a hard swish, but no part of it",
    "tail": "an op before it is not supported, which is no softmax behind the logits",
}
"""What must become of a value on which something is pending."""


@dataclasses.dataclass(frozen=True)
class Value:
    """What a value of the program is in the graph. The fields with defaults are pending: the op that reads it resolves them."""

    node: str
    shape: tuple[int, ...]
    """Of the program's array, [1, ...]."""

    padding: tuple[int, int, int, int] | None = None
    """Zeros that the next window pads: top, left, bottom, right."""

    affine: tuple[np.ndarray, np.ndarray] | None = None
    """Gain and shift [channels] that the layers that read the image apply to it."""

    sum: tuple[Op, int] | None = None
    """The mean that this becomes by a division, and the divisor."""

    gate: str | None = None
    """One of `GATE`, x being the node's value."""

    tail: tuple[str, Any] | None = None
    """Behind the logits: the op with which that began, and its value for the probe in their place."""

    shared: bool = False
    """Whether others read the node's value, too, so that nothing can go into the layer before."""


class Reader(Assembly):
    """The state of a walk through a program."""

    def __init__(self, program: Program, source: str, image: Shape) -> None:
        super().__init__(source)
        self.program = program
        height, width, channels = image
        self.add_node("image", Image((height, width), channels))
        self.values = {program.image: Value("image", (1, *image))}
        self.probes: dict[str, Any] = {}
        """Random logits of a node, that an unknown tail is tried on."""

    # What handlers ask for.

    def refuse(self, equation: Equation, problem: str) -> NoReturn:
        """Raise `InputError` about an op."""
        raise InputError(f"{self.source}: {op_words(equation)}: {problem}")

    def value(self, equation: Equation, number: int = 0, *, pending: tuple[str, ...] = ()) -> Value:
        """The input of this number, on which nothing is pending but what is named. Raises `InputError` otherwise, and for a
        constant."""
        x = self.values.get(equation.inputs[number])
        if x is None:
            self.refuse(equation, f"its input {number + 1} must come from the image, not be a constant")
        for name, rule in PENDING.items():
            if getattr(x, name) is not None and name not in pending:
                self.refuse(equation, rule)
        return x

    def constant(self, equation: Equation, number: int) -> np.ndarray:
        """The constant that is the input of this number, float64."""
        found = self.program.constants.get(equation.inputs[number])
        if found is None:
            self.refuse(equation, f"its input {number + 1} must be a constant or a variable of the module")
        return np.asarray(found).astype(np.float64)

    def channels(self, x: Value) -> int:
        """How many channels, or features, a value has."""
        return self.graph_shapes[x.node][-1]

    def add(self, equation: Equation, op: Op, *inputs: Value, name: str = "") -> Value:
        """Add a node for what the equation gives."""
        name = name or (equation.within if isinstance(op, Activation) else "") or type(op).__name__.lower()
        return Value(self.add_node(name, op, [x.node for x in inputs]), equation.shapes[0])

    def layer(self, equation: Equation, op: Op, x: Value, kernel: np.ndarray, shift: np.ndarray | float = 0.0) -> Value:
        """Add a layer with kernel [S, R, C, M], named after the variable of its kernel, whose outputs begin with `shift`."""
        path = self.program.paths.get(equation.inputs[1], "")
        module = path.rpartition(".")[0] or path
        found = self.add(equation, op, x, name=module or equation.op)
        self.weights[found.node] = kernel, np.zeros(kernel.shape[-1]) + shift
        if module:
            self.origins[found.node] = module
        return found

    def skip(self, equation: Equation, reason: str) -> None:
        """Note that an op is left out."""
        self.skipped.append(Skipped(equation.within or equation.op, equation.op, reason))

    def not_kept(self, equation: Equation, x: Value, reason: str) -> Value:
        """An op that changes no shape, left out, which serves the mapper alone."""
        self.skip(equation, reason)
        self.inexact = self.inexact or f"{op_words(equation)} is not supported"
        return dataclasses.replace(x, shape=equation.shapes[0])

    def restrict(self, x: Value, limit: float) -> None:
        """Give the ReLU that a value comes from an upper limit."""
        place = next(place for place, node in enumerate(self.nodes) if node.name == x.node)
        self.nodes[place] = dataclasses.replace(self.nodes[place], op=Activation("relu", limit))

    # The walk.

    def read(self, name: str) -> Imported:
        """The network, called `name`."""
        from mqjax.models.traced.handlers import handle

        for equation in self.program.equations:
            found = handle(self, equation)
            for number, shape in zip(equation.outputs, equation.shapes, strict=True):
                shared = found.shared or self.program.readers.get(number, 0) > 1
                self.values[number] = dataclasses.replace(found, shape=shape, shared=shared)
        out = self.values.get(self.program.output)
        if out is None:
            raise InputError(f"{self.source}: its output does not depend on the image")
        if out.tail is not None:
            self._leave_out(out)
        elif len(self.graph_shapes[out.node]) != 1 or any((out.sum, out.gate, out.padding, out.affine)):
            self.inexact = self.inexact or "its output is no list of logits"
        graph, weights = self.finished(name, out.node)
        return Imported(self.source, graph, weights, tuple(self.skipped), self.inexact, origins=self.origins)

    def _leave_out(self, out: Value) -> None:
        """Leave out what follows the logits: a softmax, which does not change which one is the largest."""
        assert out.tail is not None
        began, found = out.tail
        logits = self.probes[out.node]
        if out.shape != logits.shape:
            shown = ["x".join(map(str, shape)) for shape in (logits.shape, out.shape)]
            raise InputError(
                f"{self.source}: {began}: this op is not supported; it makes {shown[1]} of {shown[0]} logits"
            )
        softmax = any(np.allclose(found, f(logits), atol=1e-4) for f in (jax.nn.softmax, jax.nn.log_softmax))
        self.skipped.append(
            Skipped("softmax" if softmax else began, "softmax" if softmax else "several", "it follows the logits")
        )
        if not softmax:
            self.inexact = self.inexact or f"{began} and what follows it are not supported"


def op_words(equation: Equation) -> str:
    """An op as messages name it: "op 'logistic' in silu"."""
    return f"op {equation.op!r}" + (f" in {equation.within}" if equation.within else "")


def read_module(module: Any, input_shape: Sequence[int], *, source: str, name: str) -> Imported:
    """The network of a Flax NNX module on images of (height, width, channels).

    source: what messages call it. name: the graph's. Raises `InputError` naming the op where one is not supported.
    """
    if not isinstance(module, nnx.Module):
        raise InputError(
            f"{source} must be a module of flax.nnx, or a function that returns one, not {type(module).__name__}"
        )
    if (
        not isinstance(input_shape, tuple | list)
        or len(input_shape) != 3
        or not all(isinstance(extent, int) and extent > 0 for extent in input_shape)
    ):
        raise InputError(
            f"{source}: input_shape must be (height, width, channels), such as (32, 32, 3), not {input_shape!r}"
        )
    height, width, channels = input_shape
    shape = height, width, channels
    return Reader(trace(module, shape, source), source, shape).read(name)
