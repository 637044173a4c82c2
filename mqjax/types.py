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

DIMS = ("C", "M", "R", "S", "N", "P", "Q")
TENSORS = ("Weights", "Inputs", "Outputs")
SHAPES = ("cnn", "depthwise")
METRICS = ("energy", "edp", "delay")
"""What a layer's mapping can be optimal by; tables of optima are in this order."""

# RELEVANT[shape][tensor] lists the dimensions that index the tensor.
RELEVANT = {
    "cnn": ("CMRS", "CRSNPQ", "MNPQ"),
    "depthwise": ("CRS", "CRSNPQ", "CNPQ"),
}


def _require_positive_int(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{what} must be a positive integer, not {value!r:.60}")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution (or a fully connected layer: P = Q = R = S = 1) as the mapper sees it.

    C, M: input and output channels; R, S: kernel width and height; N: batch; P, Q: output width and height.
    Wstride and Wdilation go with P and R, Hstride and Hdilation with Q and S.
    `shape` is "cnn" (dense) or "depthwise" (one filter per channel: M must be 1, C counts the channels).
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
    shape: str = "cnn"
    name: str = dataclasses.field(default="layer", compare=False)

    def __post_init__(self) -> None:
        for key in LAYER_KEYS:
            _require_positive_int(getattr(self, key), f"layer {self.name!r}: {key}")
        if self.shape not in SHAPES:
            raise InputError(f"layer {self.name!r}: shape must be one of {', '.join(SHAPES)}, not {self.shape!r:.60}")
        if self.shape == "depthwise" and self.M != 1:
            raise InputError(f"layer {self.name!r}: a depthwise layer has M=1 (C counts its channels), not M={self.M}")

    @classmethod
    def from_dims(cls, dims: Mapping[str, Any], *, shape: str = "cnn", name: str = "layer") -> Layer:
        """A layer from a mapping with the keys C M R S N P Q Wstride Hstride Wdilation Hdilation (absent: 1)."""
        odd = [key for key in dims if key not in LAYER_KEYS]
        if odd:
            raise InputError(f"layer {name!r}: {unknown('key', odd[0], LAYER_KEYS)}")
        return cls(**dims, shape=shape, name=name)

    @property
    def dims(self) -> dict[str, int]:
        """The keys of `from_dims` with their values."""
        return {key: getattr(self, key) for key in LAYER_KEYS}

    @property
    def bounds(self) -> tuple[int, ...]:
        """Loop bounds in the order of `DIMS`."""
        return tuple(getattr(self, d) for d in DIMS)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of the layer."""
        product = 1
        for bound in self.bounds:
            product *= bound
        return product

    def elements(self, tensor: str) -> int:
        """Elements of a whole tensor ("Weights", "Inputs" or "Outputs"); Inputs is its bounding box, without padding."""
        if tensor == "Weights":
            return self.C * self.M * self.R * self.S
        if tensor == "Outputs":
            return self.N * self.P * self.Q * (self.C if self.shape == "depthwise" else self.M)
        width = (self.P - 1) * self.Wstride + (self.R - 1) * self.Wdilation + 1
        height = (self.Q - 1) * self.Hstride + (self.S - 1) * self.Hdilation + 1
        return self.N * self.C * width * height


LAYER_KEYS = (*DIMS, "Wstride", "Hstride", "Wdilation", "Hdilation")

SECONDS = 60.0
"""Time for one layer, after which its space counts as too large to cover."""

WIDTHS = tuple(range(2, 9))
"""The bit-widths that a search chooses from."""


@dataclasses.dataclass(frozen=True, order=True)
class BitWidths:
    """Bit-widths of a layer's three tensors; `None` means native: one operand per word, no packing."""

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
        """ "I/W/O", such as "8/4/8", or "native"."""
        if text == "native":
            return cls()
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise InputError(
                f"bit-widths must be 'I/W/O' with three positive integers (such as 8/4/8), or 'native', not {text!r}"
            )
        return cls(*(int(part) for part in parts))

    def by_tensor(self) -> tuple[int | None, int | None, int | None]:
        """Widths in the order of `TENSORS` (Weights, Inputs, Outputs)."""
        return (self.weights, self.inputs, self.outputs)

    def __str__(self) -> str:
        if self == BitWidths():
            return "native"
        return "/".join("native" if w is None else str(w) for w in (self.inputs, self.weights, self.outputs))


def all_widths() -> list[BitWidths]:
    """The 343 triples of widths 2..8: Inputs slowest, then Weights, then Outputs."""
    return [BitWidths(*triple) for triple in itertools.product(WIDTHS, repeat=3)]
