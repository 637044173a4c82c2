"""What the order of a level's loops can change: the runs of innermost loops (MODEL.md section 6).

A tensor crosses a boundary anew at every step of the loops outside, but for those of the *run*: the innermost loops that
leave it unchanged. Inputs slide: their *window* is the sequence of innermost loops that leave them unchanged or move along
one rank of a kernel and an output dimension, since only there can two moves be equal; or along both such ranks where
neighbours may forward, since their data may lie apart in one while a move comes back in the other.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

WindowLoops = tuple[tuple[int, int, int], ...]
"""Innermost loops that matter to Inputs, inner to outer: (dimension, bound, storage level)."""


class Order(NamedTuple):
    """An order of the loops of a level, inner to outer, with what it means.

    tensor: which the innermost loop leaves unchanged (`None`: none), and run: the loops of its run. window: the loops of
    the window of Inputs. whole_run, whole_window: all loops of the level belong to it, so that it goes on further out.
    """

    loops: tuple[int, ...]
    tensor: int | None
    run: tuple[int, ...]
    window: tuple[int, ...]
    whole_run: bool
    whole_window: bool


class LoopRules(NamedTuple):
    """How loops act: the dimensions that leave each tensor unchanged, the pairs of dimensions along which Inputs slide,
    and whether neighbours along one of these may forward them."""

    idle: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    inputs: int
    forwards: bool

    def tensor(self, dim: int) -> int | None:
        """The tensor that a loop of a dimension leaves unchanged."""
        return next((t for t, dims in enumerate(self.idle) if dim in dims), None)

    def pair(self, dim: int) -> tuple[int, int] | None:
        return next((pair for pair in self.pairs if dim in pair), None)


@cache
def window_length(rules: LoopRules, dims: tuple[int, ...]) -> int:
    """How many of some loops, inner to outer, belong to the window."""
    pair = None
    for place, d in enumerate(dims):
        if d in rules.idle[rules.inputs]:
            continue
        own = rules.pair(d)
        if own is None or (pair not in (None, own) and not rules.forwards):
            return place
        pair = own
    return len(dims)


@cache
def distinct_orders(rules: LoopRules, prefix: tuple[int, ...], moving: tuple[int, ...]) -> tuple[Order, ...]:
    """The orders of the `moving` loops of a level that may differ in cost, where those of `prefix` come first in this
    order and the others in any."""
    fixed = tuple(d for d in prefix if d in moving)
    free = [d for d in moving if d not in fixed]
    found: dict[tuple, Order] = {}
    for rest in itertools.permutations(free):
        order = _order(rules, (*fixed, *rest))
        key = order.tensor, order.window, order.whole_window
        # Of runs that differ in nothing else the longest is never worse.
        if key not in found or len(order.run) > len(found[key].run):
            found[key] = order
    return tuple(found.values())


def _order(rules: LoopRules, loops: tuple[int, ...]) -> Order:
    tensor = rules.tensor(loops[0])
    run = tuple(itertools.takewhile(lambda d: tensor is not None and rules.tensor(d) == tensor, loops))
    length = window_length(rules, loops) if rules.pairs else 0
    whole = length == len(loops)
    window = loops[:length]
    while not whole and not rules.forwards and len(window) > 1 and not rules.pair(window[-1]):
        window = window[:-1]  # idle loops outside a move never repeat it
    return Order(loops, tensor, run, window, len(run) == len(loops), whole)


def joined(rules: LoopRules, inner: WindowLoops, outer: WindowLoops) -> WindowLoops:
    """The window of loops `inner` inside the window `outer`; idle loops that meet become one."""
    window, idle = (*inner, *outer), rules.idle[rules.inputs]
    merged: list[tuple[int, int, int]] = []
    for d, bound, level in window[: window_length(rules, tuple([d for d, _, _ in window]))]:
        if merged and d in idle and merged[-1][0] in idle:
            merged[-1] = (merged[-1][0], bound * merged[-1][1], merged[-1][2])
        else:
            merged.append((d, bound, level))
    return tuple(merged)
