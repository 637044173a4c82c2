"""Windows of convolutions and pools: kernel, stride, padding and dilation along the height and the width.

A number stands for both sides, and for all four borders; what differs is written out. Both spellings of the same window are
equal, for the short one is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Pair = tuple[int, int]

Extents = int | tuple[int, int]
"""Along height and width."""

Borders = int | tuple[int, int, int, int]
"""Padding at the top, the left, the bottom and the right."""


class Window(NamedTuple):
    """A window written out: pairs along height and width; the padding is that before and after, for each of the two."""

    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair

    @classmethod
    def of(cls, op: Any) -> Window:
        """That of an op with `kernel`, `stride`, `padding` and, perhaps, `dilation`."""
        top, left, bottom, right = (op.padding,) * 4 if isinstance(op.padding, int) else op.padding
        return cls(pair(op.kernel), pair(op.stride), ((top, bottom), (left, right)), pair(getattr(op, "dilation", 1)))

    @property
    def reach(self) -> Pair:
        """How far the window extends, holes included."""
        height, width = (
            dilation * (extent - 1) + 1 for extent, dilation in zip(self.kernel, self.dilation, strict=True)
        )
        return height, width

    @property
    def onnx_pads(self) -> tuple[int, int, int, int]:
        """The padding in the order of ONNX and of `Borders`."""
        (top, bottom), (left, right) = self.padding
        return top, left, bottom, right

    def places(self, height: int, width: int) -> Pair:
        """Along each side, how many places the window has in a padded image; less than one where it does not fit."""
        rows, columns = (
            (extent + sum(padding) - reach) // stride + 1
            for extent, padding, reach, stride in zip(
                (height, width), self.padding, self.reach, self.stride, strict=True
            )
        )
        return rows, columns


def pair(extents: Extents) -> Pair:
    """Along height and width."""
    return (extents, extents) if isinstance(extents, int) else extents


def shortest(numbers: Any) -> Any:
    """A number in place of equal numbers."""
    if isinstance(numbers, int):
        return numbers
    numbers = tuple(int(number) for number in numbers)
    return numbers[0] if len(set(numbers)) == 1 else numbers


class Windowed:
    """An op with a window; its fields are kept in the short spelling."""

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "padding", "dilation"):
            if hasattr(self, name):
                object.__setattr__(self, name, shortest(getattr(self, name)))

    @property
    def window(self) -> Window:
        """The window, written out."""
        return Window.of(self)
