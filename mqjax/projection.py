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

LOOPS = (*DIMS, "G")
"""All dimensions, in the order that arrays have: G, groups that share nothing, only where a shape has it. Constraints are
written in these."""


class Term(NamedTuple):
    """A dimension in a rank, with the layer's key that is its coefficient (`None`: 1)."""

    dim: str
    coefficient: str | None = None


Rank = tuple[Term, ...]

WIDTH: Rank = (Term("R", "Wdilation"), Term("P", "Wstride"))
HEIGHT: Rank = (Term("S", "Hdilation"), Term("Q", "Hstride"))

SLIDING = (WIDTH, HEIGHT)
"""Ranks of two dimensions, a window that slides: where halos and forwarding come from. Only Inputs have any."""

SLIDING_DIMS = tuple(tuple(DIMS.index(term.dim) for term in rank) for rank in SLIDING)
"""Their dimensions, kernel and output, along the width and along the height."""


class Projection(NamedTuple):
    """How the tensors of a shape of layers are indexed.

    loops: its dimensions, in the order in which arrays and constraints have them. ranks: per tensor, in the order of
    `TENSORS`. unit: dimensions whose bound is always 1. names: what users call the dimensions, in layers and mappings,
    where not by themselves; those that it leaves out are unit ones, which they never see.
    """

    loops: tuple[str, ...]
    ranks: tuple[tuple[Rank, ...], tuple[Rank, ...], tuple[Rank, ...]]
    unit: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()  # (dimension, its name)

    @property
    def named(self) -> dict[str, str]:
        """The dimension that each name stands for, in the order of `loops`."""
        return {name: dim for dim, name in self.names} or {dim: dim for dim in self.loops}

    @property
    def keys(self) -> dict[str, str]:
        """The keys of a layer of this shape, and what they stand for: dimensions by name, and coefficients."""
        sliding = [rank for rank in SLIDING if not any(term.dim in self.unit for term in rank)]
        found = {term.coefficient for rank in sliding for term in rank}
        return {**self.named, **{key: key for key in COEFFICIENTS if key in found}}

    @property
    def relevant(self) -> tuple[str, str, str]:
        """The dimensions that index each tensor."""
        weights, inputs, outputs = ("".join(term.dim for rank in ranks for term in rank) for ranks in self.ranks)
        return weights, inputs, outputs


def _own(dims: str) -> tuple[Rank, ...]:
    """A rank for each dimension by itself."""
    return tuple((Term(dim),) for dim in dims)


COEFFICIENTS = ("Wstride", "Hstride", "Wdilation", "Hdilation")
"""The keys of a layer that are coefficients of its ranks."""

_GROUPED = Projection(LOOPS, (_own("CMRSG"), (*_own("NCG"), *SLIDING), _own("NMQPG")))

PROJECTIONS = {
    "cnn": Projection(DIMS, (_own("CMRS"), (*_own("NC"), *SLIDING), _own("NMQP"))),
    "depthwise": Projection(DIMS, (_own("CRS"), (*_own("NC"), *SLIDING), _own("NCQP")), unit=("M",)),
    "grouped": _GROUPED,
    "matmul": _GROUPED._replace(unit=("R", "S", "N", "P"), names=(("C", "K"), ("M", "N"), ("Q", "M"), ("G", "B"))),
}
"""By the name of the shape.

cnn: a dense convolution. depthwise: one filter for each channel, which C counts. grouped: G convolutions side by side, each of
C input and M output channels. matmul: B products Outputs[M, N] = Inputs[M, K] Weights[K, N], which are grouped 1x1
convolutions of K input and N output channels on a column of M pixels.
"""


def names_of(letters: set[str]) -> tuple[str, ...]:
    """The dimensions, by name, of the first shape that has all of `letters`; `letters` themselves where none does."""
    found = (tuple(x.named) for x in PROJECTIONS.values() if letters <= set(x.named))
    return next(found, tuple(sorted(letters)))


def alike(shape: str) -> tuple[Projection, ...]:
    """The projections of all shapes with the same dimensions as `shape`: they share compiled programs."""
    loops = PROJECTIONS[shape].loops
    return tuple(projection for projection in PROJECTIONS.values() if projection.loops == loops)
