"""A module's computation for one image, as JAX traces it: a list of equations without functions inside, and constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from mqjax.errors import InputError
from mqjax.io.code import reason

INLINED = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat", "remat2")
)
"""Primitives that do nothing but call a function."""


@dataclasses.dataclass(frozen=True)
class Equation:
    """One op. Values are numbers."""

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Of the outputs."""

    within: str
    """The innermost named function that it was part of, or nothing."""

    @property
    def op(self) -> str:
        """The name of JAX's primitive."""
        return self.primitive.name

    def compute(self, values: list[Any]) -> list[Any]:
        """The outputs for inputs that are arrays."""
        found = self.primitive.bind(*values, **self.params)
        return list(found) if self.primitive.multiple_results else [found]


@dataclasses.dataclass
class Program:
    """The equations on which the output depends, in order, and the values that no equation on the image gives."""

    equations: list[Equation]
    constants: dict[int, Any]
    paths: dict[int, str]
    """Of constants that come from a variable of the module: where it is, such as "conv1.kernel"."""

    image: int
    output: int
    output_shape: tuple[int, ...]
    readers: dict[int, int]
    """How many equations read each value; being the output counts as one."""


def trace(module: nnx.Module, input_shape: tuple[int, int, int], source: str) -> Program:
    """The program of a module, as for inference, on one image [1, height, width, channels] float32. The module is not changed.

    Raises `InputError`, from what was raised, where the module cannot be called so or returns no single array.
    """
    model = nnx.merge(*nnx.split(module))
    model.eval()
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise InputError(f"{source}: its variables have no values, but shapes alone; make the module itself")
    # A leaf's path ends in the attribute of its variable.
    places = [
        jax.tree_util.keystr(path[:-1], simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(state)
    ]
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)

    def call(leaves: list[Any], x: Any) -> Any:
        return nnx.merge(graph, jax.tree.unflatten(tree, leaves))(x)

    try:
        closed, shape = jax.make_jaxpr(call, return_shape=True)(leaves, image)
    except Exception as error:  # the user's code may raise anything
        size = "x".join(map(str, input_shape))
        raise InputError(f"{source} cannot be called on an image of {size}: {reason(error)}") from error
    if not isinstance(shape, jax.ShapeDtypeStruct):
        raise InputError(f"{source} must return one array, its logits, not {type(shape).__name__}")
    return _Flattening().program(closed, leaves, places)


class _Flattening:
    """Gives numbers to values, and puts the functions' equations in place of their calls."""

    def __init__(self) -> None:
        self.count = 0
        self.constants: dict[int, Any] = {}
        self.paths: dict[int, str] = {}

    def program(self, closed: ClosedJaxpr, leaves: list[Any], places: list[str]) -> Program:
        numbers = {variable: self.new() for variable in closed.jaxpr.invars}
        inputs = list(numbers.values())
        for number, leaf, place in zip(inputs, leaves, places, strict=False):  # the image is last
            self.constants[number], self.paths[number] = leaf, place
        equations = list(self.walk(closed.jaxpr, closed.consts, numbers, ""))
        out = closed.jaxpr.outvars[0]
        output = self.number(out, numbers)
        live, needed = [], {output}
        for equation in reversed(equations):
            if needed.intersection(equation.outputs):
                live.append(equation)
                needed.update(equation.inputs)
        live = [equation for equation in reversed(live) if not self.folded(equation)]
        readers: dict[int, int] = {output: 1}
        for number in (number for equation in live for number in set(equation.inputs)):
            readers[number] = readers.get(number, 0) + 1
        return Program(live, self.constants, self.paths, inputs[-1], output, tuple(out.aval.shape), readers)

    def new(self) -> int:
        self.count += 1
        return self.count

    def number(self, atom: Any, numbers: dict[Any, int]) -> int:
        """Of a variable, or a new one for a literal."""
        if not isinstance(atom, Literal):
            return numbers[atom]
        number = self.new()
        self.constants[number] = atom.val
        return number

    def walk(self, jaxpr: Jaxpr, consts: Any, numbers: dict[Any, int], within: str) -> Iterator[Equation]:
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            numbers[variable] = self.new()
            self.constants[numbers[variable]] = value
        for eqn in jaxpr.eqns:
            inputs = [self.number(atom, numbers) for atom in eqn.invars]
            if eqn.primitive.name in INLINED:
                inner = next(p for p in eqn.params.values() if isinstance(p, Jaxpr | ClosedJaxpr))
                body, values = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
                inside = dict(zip(body.invars, inputs, strict=True))
                yield from self.walk(body, values, inside, str(eqn.params.get("name") or within))
                results = [self.number(atom, inside) for atom in body.outvars]
                numbers.update(zip(eqn.outvars, results, strict=True))
                continue
            outputs = [self.new() for _ in eqn.outvars]
            numbers.update(zip(eqn.outvars, outputs, strict=True))
            shapes = tuple(tuple(getattr(variable.aval, "shape", ())) for variable in eqn.outvars)
            yield Equation(eqn.primitive, eqn.params, tuple(inputs), tuple(outputs), shapes, within)

    def folded(self, equation: Equation) -> bool:
        """Whether an equation has constants alone, and so gives constants, which are then known."""
        if not all(number in self.constants for number in equation.inputs):
            return False
        found = equation.compute([self.constants[number] for number in equation.inputs])
        path = next((self.paths[number] for number in equation.inputs if number in self.paths), None)
        for number, value in zip(equation.outputs, found, strict=True):
            self.constants[number] = value
            if path is not None:
                self.paths[number] = path
        return True
