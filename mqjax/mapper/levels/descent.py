"""The cheapest temporal loops for given spatial ones, placed from the outermost level inwards (docs/PROOF.md).

What a boundary costs follows from the extents inside and the run and the window of innermost loops outside, so partial
mappings that agree in these are one *state*, kept once, at the least cost. States that cannot lead to a better mapping than
is known, by `mqjax.mapper.levels.bounds`, are dropped.

Axes: S states, E pairs of a state and the extents that a level's loops leave inside, X extents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mqjax.mapper.levels.book import NO_WINDOW, WindowBook
from mqjax.mapper.levels.charges import INPUTS, READ, WRITE
from mqjax.mapper.levels.runs import Order, distinct_orders
from mqjax.mapper.levels.states import (
    NO_TENSOR,
    Measure,
    Placed,
    States,
    Targets,
    TooManyStates,
    unbeaten,
    undominated,
)
from mqjax.types import TENSORS

STATES_MOST = 2**18
"""States of a boundary that are kept; where there are more, the proof is given up."""

PAIRS_MOST = 2**23
"""Pairs of a state and extents that are priced for a boundary at most."""

PRICED_AT_ONCE = 2**16
"""Pairs that are priced together."""

PRICED_PER_STATE = 16
"""Pairs that are priced for every state of a beam."""

COMPARED_AT_ONCE = 2**22
"""Exponents of extents that are compared together."""


class Search(NamedTuple):
    """How to search: beam: how many of the most promising states are kept at each boundary; better mappings may be missed.
    most: how many may be looked at for one, or the search ends without mappings. gap: not worth while where a mapping is known
    that takes at most so many times what any may take."""

    beam: int | None = None
    most: int = PAIRS_MOST
    gap: float = 0.0


class Descent:
    """Places the temporal loops of a layer for one spread and one packing; `operands`: int64 [L, T].

    measures: pJ, and the words that may slow the MACs down, which need `cycles` without them; axis K. book: the windows of the
    spread. go_on: called now and then; may raise what ends the search. looked_at: partial mappings that were priced last.
    complete: whether no better mappings were missed.
    """

    def __init__(
        self,
        measures: list[Measure],
        cycles: float,
        operands: np.ndarray,
        book: WindowBook,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._measures, self._cycles, self._operands, self._go_on = measures, cycles, operands, go_on
        self._bandwidth = np.array([measure.bandwidth for measure in measures[1:]])
        self.bounds, self.charges = measures[0].bounds, measures[0].charges
        space = self.charges.space
        self._book = book
        self._prefix = [space.prefix(t) for t, level in enumerate(space.tiling) if not level.spatial]
        self._orders: list[Order] = []
        self._order_numbers: dict[Order, int] = {}
        self.looked_at, self.complete = 0, False

    def best(self, limits: Targets, search: Search) -> list[Placed]:
        """The temporal loops within the limits that no others beat in both pJ and cycles, and all that may be as good but
        for what is only bounded. `complete` says whether no others are.

        Raises `TooManyStates` where more may be optimal than can be looked at.
        """
        start = States(
            place=np.array([self.charges.lattice.size - 1]),
            tensor=np.array([NO_TENSOR]),
            run=np.array([1]),
            window=np.array([NO_WINDOW]),
            cost=np.array([[measure.start for measure in self._measures]]),
            exact=np.array([True]),
            parent=np.array([-1]),
            order=np.array([-1]),
        )
        history = [start]
        beam, self.looked_at = search.beam, 0
        self.complete = beam is None
        for b in range(self.charges.depth - 1, 0, -1):
            try:
                states = unbeaten(self._place_level(b, history[-1], limits, search))
            except TooManyStates:
                if search.most == PAIRS_MOST:
                    raise
                self.complete = False
                return []
            self.looked_at += len(states)
            if beam is not None and len(states) > beam:
                promise = states.cost[:, 0] + self._inside(b, states)[:, 0]
                states = states.take(np.argsort(promise, kind="stable")[:beam])
            if len(states) > STATES_MOST:
                raise TooManyStates
            history.append(states)
        last = history[-1]
        return [self._placed(history, i) for i in undominated(last.cost[:, 0], self._slowed(last.cost), last.exact)]

    def _inside(self, b: int, states: States) -> np.ndarray:
        """What the boundaries inside b cost, at least, float64 [S, K]."""
        columns = []
        for measure in self._measures:
            least = measure.bounds.least[b]
            table = np.stack([least[t][:, 0] for t in (*range(len(TENSORS)), None)])
            columns.append(table[states.tensor, states.place])
        return np.stack(columns, axis=1)

    def _slowed(self, cost: np.ndarray) -> np.ndarray:
        """Cycles of mappings that cost at least [S, K], at least."""
        # Quotients may come out an ulp too large.
        with np.errstate(invalid="ignore"):
            needed = np.ceil(cost[:, 1:] / self._bandwidth * (1 - 1e-12))
        return np.maximum(self._cycles, needed.max(axis=1, initial=0))

    def _place_level(self, b: int, outer: States, limits: Targets, search: Search) -> States:
        """The states at boundary b that come of placing the loops of level b."""
        at, place, least = self._pairs(b, outer, limits)
        if len(at) > search.most:
            raise TooManyStates
        if search.beam is not None:
            best = np.argsort(least, kind="stable")[: PRICED_PER_STATE * search.beam]
            at, place = at[best], place[best]
        parts = [outer.take(np.zeros(0, np.int64))]
        for first in range(0, len(at), PRICED_AT_ONCE):
            some = slice(first, first + PRICED_AT_ONCE)
            self._go_on()
            parts += self._ordered(b, outer, at[some], place[some], limits)
            if sum(map(len, parts)) > 4 * STATES_MOST:
                parts = [unbeaten(States.join(parts))]
                if len(parts[0]) > 2 * STATES_MOST:
                    raise TooManyStates
        return States.join(parts)

    def _ordered(self, b: int, outer: States, at: np.ndarray, place: np.ndarray, limits: Targets) -> Iterator[States]:
        """The states that come of pairs [E] in all orders of the level's loops that may differ in cost."""
        extents = self.charges.lattice.extents
        factors = extents[outer.place[at]] // extents[place]  # [E, D]
        moving = factors > 1
        mask = moving @ (1 << np.arange(moving.shape[1]))
        for code in np.unique(mask):
            rows = np.flatnonzero(mask == code)
            dims = tuple(np.flatnonzero(moving[rows[0]]).tolist())
            for order in distinct_orders(self._book.rules, self._prefix[b], dims) if dims else (None,):
                yield self._priced(b, outer, at[rows], place[rows], order, factors[rows], limits)

    def _pairs(self, b: int, outer: States, limits: Targets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of a state and extents inside level b that may lead to a mapping within the limits: int64 [E] each, and pJ
        of these mappings at least, float64 [E]."""
        lattice, least = self.charges.lattice, self.bounds.least[b]
        inside = np.min([least[t][:, 0] for t in range(len(TENSORS))], axis=0)
        energy, budget = outer.cost[:, 0], limits.most(self._cycles)
        left = budget - energy.min(initial=np.inf)
        candidates = np.flatnonzero(inside <= left)
        exponents, fixed = lattice.exponents[candidates], self.bounds.fixed[b]
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        step = max(1, COMPARED_AT_ONCE // max(1, exponents.size))
        for first in range(0, len(outer), step):
            some = slice(first, first + step)
            divides = (exponents <= lattice.exponents[outer.place[some], None]).all(axis=2)
            divides &= energy[some, None] + inside[candidates] <= budget
            state, candidate = np.nonzero(divides)
            found.append((state + first, candidates[candidate]))
            if sum(len(states) for states, _ in found) > PAIRS_MOST:
                raise TooManyStates
        at, place = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        fits = np.ones(len(at), bool)
        for d, factor in fixed.items():
            fits &= lattice.extents[outer.place[at], d] == factor * lattice.extents[place, d]
        for d in np.flatnonzero(np.isfinite(self.bounds.most[b])):
            fits &= lattice.extents[outer.place[at], d] <= self.bounds.most[b, d] * lattice.extents[place, d]
        at, place = at[fits], place[fits]
        promise = np.min([self._promise(b, outer, at, place, t) for t in range(len(TENSORS))], axis=0)
        least = energy[at] + promise
        kept = least <= budget
        return at[kept], place[kept], least[kept]

    def _promise(self, b: int, outer: States, at: np.ndarray, place: np.ndarray, tensor: int) -> np.ndarray:
        """pJ of boundary b and those inside it, at least, where the innermost loops leave a tensor unchanged, [E]."""
        lattice, dims = self.charges.lattice, list(self._book.rules.idle[tensor])
        part, windows, whole = self.bounds.parts[b][tensor], self.bounds.windows[b], outer.place[at]
        others, own, plain, closed, opened = (values[:, 0] for values in part)
        apart = lattice.places[whole] - lattice.places[place]
        mixed = place + apart[:, dims].sum(axis=1)
        # A run or a window outside may go on.
        further = place + (lattice.places[-1] - lattice.places[place])[:, dims].sum(axis=1)
        joins = (mixed == whole) & (outer.tensor[at] == tensor)
        goes_on = joins.copy()
        for group in windows.groups if windows is not None else ():
            goes_on |= place + apart[:, group].sum(axis=1) == whole
        if b == self.charges.depth - 1:
            joins, goes_on = np.zeros_like(joins), np.zeros_like(goes_on)
        crossing = np.where(joins, further, mixed)
        if tensor == INPUTS:
            return others[place] + np.where(goes_on, own[crossing], closed[mixed])
        inputs = closed[place]
        for d in windows.dims if windows is not None else ():
            if d in dims:
                inputs = np.minimum(inputs, plain[place + apart[:, d]])
        return others[place] + own[crossing] + np.where(goes_on, np.minimum(inputs, opened[place]), inputs)

    def _priced(
        self,
        b: int,
        outer: States,
        at: np.ndarray,
        place: np.ndarray,
        order: Order | None,
        factors: np.ndarray,
        limits: Targets,
    ) -> States:
        """The states that come of pairs [E] whose loops in level b, of bounds `factors` [E, D], have some order; `None`:
        there are none."""
        if order is None:
            tensor, run, window = outer.tensor[at], outer.run[at], outer.window[at]
        else:
            tensor = np.full(len(at), NO_TENSOR if order.tensor is None else order.tensor)
            run = factors[:, list(order.run)].prod(axis=1)
            if order.whole_run:
                run = np.where(outer.tensor[at] == tensor, run * outer.run[at], run)
            window = self._book.numbers(b, outer.window[at], outer.place[at], place, order)
        cost, exact = self._cost(b, place, tensor, run, window)
        states = States(
            place, tensor, run, window, outer.cost[at] + cost, outer.exact[at] & exact, at,
            np.full(len(at), self._number(order)),
        )  # fmt: skip
        least = states.cost + self._inside(b, states)
        return states.take(np.flatnonzero(limits.keeps(least[:, 0], self._slowed(least))))

    def _number(self, order: Order | None) -> int:
        if order is None:
            return -1
        if order not in self._order_numbers:
            self._order_numbers[order] = len(self._orders)
            self._orders.append(order)
        return self._order_numbers[order]

    def _cost(
        self, b: int, place: np.ndarray, tensor: np.ndarray, run: np.ndarray, window: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What boundary b costs, at least, float64 [E, K], and whether it is that exactly."""
        charges, total = self.charges, np.zeros((len(place), len(self._measures)))
        exact = np.ones(len(place), bool)
        trips = charges.trips[place]
        for t in range(len(TENSORS)):
            if b and not charges.space.arch.levels[b - 1].keep[t]:
                continue
            if t == INPUTS and self._book.rules.pairs:
                crossing, read = self._book.crossing(b, place, window)
                exact &= crossing == read
                # Neighbours may also fill less.
                filled = np.where(exact, crossing, 0)
            else:
                filled = read = charges.boxes[b, t][place] * trips // np.where(tensor == t, run, 1)
            for k, measure in enumerate(self._measures):
                for some, amount in ((WRITE, filled), (READ, read)) if t == INPUTS else ((None, read),):
                    found = [x for x in measure.charges.of(b, t) if some in (None, x.direction)]
                    total[:, k] += measure.charges.cost(found, amount, self._operands[:, t])
        return total, exact

    def _placed(self, history: list[States], last: int) -> Placed:
        """The mapping that ends in a state."""
        lattice = self.charges.lattice
        levels, state = [], last
        innermost = lattice.extents[history[-1].place[last]]
        dims = [d for d in (*self._prefix[0], *range(len(innermost))) if innermost[d] > 1]
        levels.append(tuple((d, int(innermost[d])) for d in dict.fromkeys(dims)))
        for states, outer in zip(history[:0:-1], history[-2::-1], strict=True):
            factors = lattice.extents[outer.place[states.parent[state]]] // lattice.extents[states.place[state]]
            number = states.order[state]
            levels.append(tuple((d, int(factors[d])) for d in (self._orders[number].loops if number >= 0 else ())))
            state = int(states.parent[state])
        cost, exact = history[-1].cost[last : last + 1], bool(history[-1].exact[last])
        return Placed(tuple(levels), float(cost[0, 0]), float(self._slowed(cost)[0]), exact)
