"""Records shared by every module: layers, bit-widths, accelerators.

All are frozen and hash by value, so they serve as cache keys and as static arguments of `jax.jit`.
Dimension and tensor orders are Timeloop's and are used as array axes everywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from mqjax.errors import InputError, unknown
from mqjax.projection import COEFFICIENTS, DIMS, LOOPS, PROJECTIONS, TENSORS, Projection, Rank

SHAPES = tuple(PROJECTIONS)
BOUND_MOST = 2**53
"""Of a loop: beyond it, float64 does not hold every integer."""

METRICS = ("energy", "edp", "delay")
"""What a layer's mapping can be optimal by; tables of optima are in this order."""


def _require_positive_int(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{what} must be a positive integer, not {value!r:.60}")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, a fully connected layer (P = Q = R = S = 1) or a matrix product as the mapper sees it.

    C, M: input and output channels; R, S: kernel width and height; N: batch; P, Q: output width and height.
    Wstride and Wdilation go with P and R, Hstride and Hdilation with Q and S.
    `shape` is "cnn" (dense), "depthwise" (one filter per channel: M must be 1, C counts the channels), "grouped" (G groups of C
    input and M output channels each) or "matmul" (made by `from_dims` from B, M, K and N: see `mqjax.projection`).
    """

    C: int = 1
    M: int = 1
    R: int = 1
    S: int = 1
    N: int = 1
    P: int = 1
    Q: int = 1
    Wstride: int = 1
    Hstride: int = 1
    Wdilation: int = 1
    Hdilation: int = 1
    G: int = 1
    shape: str = "cnn"
    name: str = dataclasses.field(default="layer", compare=False)

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"layer {self.name!r}: shape must be one of {', '.join(SHAPES)}, not {self.shape!r:.60}")
        names = {field: key for key, field in self.projection.keys.items()}
        for field in (*LOOPS, *COEFFICIENTS):
            _require_positive_int(getattr(self, field), f"layer {self.name!r}: {names.get(field, field)}")
            only_one = field not in names or field in self.projection.unit
            if only_one and getattr(self, field) != 1:
                raise InputError(f"layer {self.name!r}: a {self.shape} layer has {field}=1, not {getattr(self, field)}")

    @classmethod
    def from_dims(cls, dims: Mapping[str, Any], *, shape: str = "cnn", name: str = "layer") -> Layer:
        """A layer from a mapping with the keys of `layer_keys` (absent: 1)."""
        keys = layer_keys(shape, name)
        odd = [key for key in dims if key not in keys]
        if odd:
            raise InputError(f"layer {name!r}: {unknown('key', odd[0], keys)}")
        return cls(**{keys[key]: value for key, value in dims.items()}, shape=shape, name=name)

    @property
    def dims(self) -> dict[str, int]:
        """The keys of `from_dims` with their values."""
        return {key: getattr(self, field) for key, field in self.projection.keys.items()}

    @property
    def bounds(self) -> tuple[int, ...]:
        """Loop bounds in the order of `loops`."""
        return tuple(getattr(self, d) for d in self.loops)

    @property
    def projection(self) -> Projection:
        """Which dimensions index which tensor."""
        return PROJECTIONS[self.shape]

    @property
    def loops(self) -> tuple[str, ...]:
        """The dimensions of the loops that make up the layer, in the order that arrays have."""
        return self.projection.loops

    @property
    def letters(self) -> tuple[str | None, ...]:
        """What mappings call each of `loops`; `None` for those that the shape's users do not see."""
        names = {dim: name for name, dim in self.projection.named.items()}
        return tuple(names.get(dim) for dim in self.loops)

    def coefficients(self, rank: Rank) -> dict[str, int]:
        """The coefficient of every dimension in a rank."""
        return {dim: 1 if key is None else getattr(self, key) for dim, key in rank}

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of the layer."""
        product = 1
        for bound in self.bounds:
            product *= bound
        return product

    def elements(self, tensor: str) -> int:
        """Elements of a whole tensor ("Weights", "Inputs" or "Outputs"); Inputs is its bounding box, without padding."""
        elements = 1
        for rank in self.projection.ranks[TENSORS.index(tensor)]:
            steps = self.coefficients(rank).items()
            elements *= 1 + sum(coefficient * (getattr(self, dim) - 1) for dim, coefficient in steps)
        return elements


LAYER_KEYS = (*DIMS, *COEFFICIENTS)
"""The keys of a dense or depthwise layer."""


def layer_keys(shape: str, name: str = "layer") -> dict[str, str]:
    """The keys of `Layer.from_dims` for a shape, and the fields that they stand for."""
    if shape not in SHAPES:
        raise InputError(f"layer {name!r}: shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    return PROJECTIONS[shape].keys


SECONDS = 60.0
"""Time for one layer, after which its space counts as too large to cover."""


def check_effort(pad: int | None, seconds: float) -> None:
    """Raise `InputError` for a negative number of larger bounds to try, and for an impossible time."""
    if pad is not None and pad < 0:
        raise InputError(f"--pad must be a number of larger bounds to try, 0 for none, not {pad}")
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds must be a positive number of seconds, not {seconds}")


WIDTHS = tuple(range(2, 9))
"""The bit-widths that a search chooses from."""


UNPACKED = "native"
"""How widths of unpacked operands, of which every word holds one, are written where users read or write them."""

DEPTHWISE = ("channelwise", "dense")
"""How depthwise layers are seen: as they are, with one filter per channel, or as dense convolutions, as in the paper's
configuration, which counts their weights and operations C times too often."""


def depthwise_view(text: str) -> str:
    """One of `DEPTHWISE`; "channelwise" also by its former name, "native". Raises `InputError` for other text."""
    view = "channelwise" if text == "native" else text
    if view not in DEPTHWISE:
        raise InputError(f"depthwise must be {DEPTHWISE[0]!r} or {DEPTHWISE[1]!r}, not {text!r}")
    return view


@dataclasses.dataclass(frozen=True, order=True)
class BitWidths:
    """Bit-widths of a layer's three tensors; `None` means unpacked: one operand per word, whatever its width."""

    inputs: int | None = None
    weights: int | None = None
    outputs: int | None = None

    def __post_init__(self) -> None:
        for key in ("inputs", "weights", "outputs"):
            width = getattr(self, key)
            if width is not None:
                _require_positive_int(width, f"bit-width of the {key}")

    @classmethod
    def parse(cls, text: str) -> BitWidths:
        """ "I/W/O", such as "8/4/8", or "native" for unpacked operands."""
        if text == UNPACKED:
            return cls()
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise InputError(
                f"bit-widths must be 'I/W/O' with three positive integers (such as 8/4/8), or {UNPACKED!r}, not {text!r}"
            )
        return cls(*(int(part) for part in parts))

    def by_tensor(self) -> tuple[int | None, int | None, int | None]:
        """Widths in the order of `TENSORS` (Weights, Inputs, Outputs)."""
        return (self.weights, self.inputs, self.outputs)

    def __str__(self) -> str:
        if self == BitWidths():
            return UNPACKED
        return "/".join(UNPACKED if w is None else str(w) for w in (self.inputs, self.weights, self.outputs))


def all_widths() -> list[BitWidths]:
    """The 343 triples of widths 2..8: Inputs slowest, then Weights, then Outputs."""
    return [BitWidths(*triple) for triple in itertools.product(WIDTHS, repeat=3)]
