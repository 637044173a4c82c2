"""Which dimensions index which tensor, with which coefficients: the only home of that rule (MODEL.md section 1).

A tensor is a box. Each of its ranks is a sum of coefficient * dimension, so that its length for extents e is
1 + sum of coefficient * (e - 1). What a dimension is relevant to, tile sizes, element counts, multicast groups, halos and
which loop orders cost the same all follow from these tables.
"""

from __future__ import annotations

from typing import NamedTuple

TENSORS = ("Weights", "Inputs", "Outputs")

DIMS = ("C", "M", "R", "S", "N", "P", "Q")
"""The dimensions of a convolution, in Timeloop's canonical order."""


class Term(NamedTuple):
    """A dimension in a rank, with the layer's key that is its coefficient (`None`: 1)."""

    dim: str
    coefficient: str | None = None


Rank = tuple[Term, ...]

WIDTH: Rank = (Term("R", "Wdilation"), Term("P", "Wstride"))
HEIGHT: Rank = (Term("S", "Hdilation"), Term("Q", "Hstride"))

SLIDING = (WIDTH, HEIGHT)
"""Ranks of two dimensions, a window that slides: where halos and forwarding come from. Only Inputs have any."""


class Projection(NamedTuple):
    """How the tensors of a shape of layers are indexed.

    loops: its dimensions, in the order in which arrays and constraints have them. ranks: per tensor, in the order of
    `TENSORS`. unit: dimensions whose bound is always 1.
    """

    loops: tuple[str, ...]
    ranks: tuple[tuple[Rank, ...], tuple[Rank, ...], tuple[Rank, ...]]
    unit: tuple[str, ...] = ()

    @property
    def relevant(self) -> tuple[str, str, str]:
        """The dimensions that index each tensor."""
        weights, inputs, outputs = ("".join(term.dim for rank in ranks for term in rank) for ranks in self.ranks)
        return weights, inputs, outputs


def _own(dims: str) -> tuple[Rank, ...]:
    """A rank for each dimension by itself."""
    return tuple((Term(dim),) for dim in dims)


PROJECTIONS = {
    "cnn": Projection(DIMS, (_own("CMRS"), (*_own("NC"), *SLIDING), _own("NMQP"))),
    "depthwise": Projection(DIMS, (_own("CRS"), (*_own("NC"), *SLIDING), _own("NCQP")), unit=("M",)),
}
"""By the name of the shape: "cnn" is a dense convolution; in "depthwise" ones C counts the channels, of one filter each."""


def alike(shape: str) -> tuple[Projection, ...]:
    """The projections of all shapes with the same dimensions as `shape`: they share compiled programs."""
    loops = PROJECTIONS[shape].loops
    return tuple(projection for projection in PROJECTIONS.values() if projection.loops == loops)
