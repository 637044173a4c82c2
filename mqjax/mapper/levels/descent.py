"""The cheapest temporal loops for given spatial ones, placed from the outermost level inwards (docs/PROOF.md).

What a boundary costs follows from the extents inside and the run and the window of innermost loops outside, so partial
mappings that agree in these are one *state*, kept once, at the least cost. States that cannot lead to a better mapping than
is known, by `mqjax.mapper.levels.bounds`, are dropped. All packings share the states; each has its own costs.

Axes: S states, E pairs of a state and the extents that a level's loops leave inside, X extents, D dimensions, U packings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mqjax.mapper.levels.book import NO_WINDOW, WindowBook
from mqjax.mapper.levels.charges import INPUTS
from mqjax.mapper.levels.crossings import Crossings
from mqjax.mapper.levels.runs import Order, distinct_orders
from mqjax.mapper.levels.states import (
    NO_TENSOR,
    Measure,
    Placed,
    States,
    Targets,
    TooManyStates,
    least_rows,
    unbeaten,
    undominated,
)
from mqjax.types import TENSORS

STATES_MOST = 2**20
"""States of a boundary that are kept; where there are more, the proof is given up."""

PAIRS_MOST = 2**23
"""Pairs of a state and extents that are priced for a boundary at most."""

COSTS_MOST = 2**24
"""Costs of the states of a boundary, one at each packing, that are kept at most."""

PRICED_AT_ONCE = 2**19
"""Pairs times packings that are priced together."""

PRICED_PER_STATE = 16
"""Pairs that are priced for every state of a beam."""

COMPARED_AT_ONCE = 2**20
"""Extents of states that are compared together."""


class Search(NamedTuple):
    """How to search: beam: how many of the most promising states are kept at each boundary for each packing; better mappings
    may be missed. most: how many pairs may be looked at for one packing, or it is left out. gap: not worth while where a mapping
    is known that takes at most so many times what any may take."""

    beam: int | None = None
    most: int = PAIRS_MOST
    gap: float = 0.0


class Descent:
    """Places the temporal loops of a layer for one spread and some packings.

    measures: pJ, and the words that may slow the MACs down, which need `cycles` [U] without them; axis K. book: the windows of
    the spread. go_on: called now and then; may raise what ends the search. looked_at: partial mappings that were priced
    last. complete: bool [U], whether no better mappings were missed.
    """

    def __init__(
        self, measures: list[Measure], cycles: np.ndarray, book: WindowBook, go_on: Callable[[], None] = lambda: None
    ) -> None:
        self._measures, self._cycles, self._go_on = measures, cycles, go_on
        self._bandwidth = np.array([measure.bandwidth for measure in measures[1:]])
        self.bounds, self.charges = measures[0].bounds, measures[0].charges
        space = self.charges.space
        self._book, self._crossings = book, Crossings(measures, book)
        self._prefix = [space.prefix(t) for t, level in enumerate(space.tiling) if not level.spatial]
        self._orders: list[Order] = []
        self._order_numbers: dict[Order, int] = {}
        self._every_order: dict[tuple[int, int], list[int]] = {}
        self.looked_at, self.complete = 0, np.zeros(len(cycles), bool)

    def take(self, some: np.ndarray) -> Descent:
        """That for some of the packings."""
        return Descent([x.take(some) for x in self._measures], self._cycles[some], self._book, self._go_on)

    def start(self) -> States:
        """The one state that has no loops outside."""
        return States(
            place=np.array([self.charges.lattice.size - 1]),
            tensor=np.array([NO_TENSOR]),
            run=np.array([1]),
            window=np.array([NO_WINDOW]),
            groups=np.array([1]),
            cost=np.array([[measure.start for measure in self._measures]]),
            exact=np.array([True]),
            parent=np.array([-1]),
            order=np.array([-1]),
        )

    def best(self, limits: Targets, search: Search) -> list[Placed]:
        """The temporal loops within the limits that no others beat in both pJ and cycles, and all that may be as good but
        for what is only bounded. `complete` says at which packings no others are.

        Raises `TooManyStates` where more may be optimal than can be looked at.
        """
        history = [self.start()]
        self.looked_at = 0
        self.complete = np.full(len(self._cycles), search.beam is None)
        for b in range(self.charges.depth - 1, 0, -1):
            states = unbeaten(self._place_level(b, history[-1], limits, search))
            self.looked_at += len(states)
            if search.beam is not None and len(states) > search.beam:
                promise = states.cost[:, 0] + self._inside(b, states)[:, 0]
                states = states.take(least_rows(promise, search.beam))
            if len(states) > STATES_MOST or states.cost.size > COSTS_MOST:
                raise TooManyStates
            history.append(states)
        last = history[-1]
        slowed = np.broadcast_to(self._slowed(last.cost), last.cost[:, 0].shape)
        wanted: dict[int, np.ndarray] = {}
        for u in range(len(self._cycles)):
            for i in undominated(last.cost[:, 0, u], slowed[:, u], last.exact):
                wanted.setdefault(i, np.full(len(self._cycles), np.inf))[u] = last.cost[i, 0, u]
        return [Placed(self._loops(history, i), energy, bool(last.exact[i])) for i, energy in wanted.items()]

    def _inside(self, b: int, states: States) -> np.ndarray:
        """What the boundaries inside b cost, at least, float64 [S, K, U]."""
        found = np.empty_like(states.cost)
        for t in (*range(len(TENSORS)), NO_TENSOR):
            rows = np.flatnonzero(states.tensor == t)
            if len(rows):
                for k, measure in enumerate(self._measures):
                    found[rows, k] = measure.bounds.within(
                        b, None if t == NO_TENSOR else t, states.place[rows], states.run[rows]
                    )
        return found

    def _slowed(self, cost: np.ndarray) -> np.ndarray:
        """Cycles of mappings that cost at least [S, K, U], at least, [S, U] or the same for all [U]."""
        if not len(self._bandwidth):
            return self._cycles
        # Quotients may come out an ulp too large.
        with np.errstate(invalid="ignore"):
            needed = np.ceil((cost[:, 1:] / self._bandwidth[:, None]).max(axis=1) * (1 - 1e-12))
        return np.maximum(self._cycles, needed)

    def _place_level(self, b: int, outer: States, limits: Targets, search: Search) -> States:
        """The states at boundary b that come of placing the loops of level b."""
        at, place, hopeful = self._pairs(b, outer, limits, search)
        parts = [outer.take(np.zeros(0, np.int64))]
        step = max(1, PRICED_AT_ONCE // len(self._cycles))
        pair, number = self._ordered(b, outer, at, place, hopeful)
        for first in range(0, len(pair), step):
            some = pair[first : first + step]
            self._go_on()
            parts.append(self._priced(b, outer, at[some], place[some], number[first : first + step], limits))
            if sum(part.cost.size for part in parts) > COSTS_MOST or sum(map(len, parts)) > 4 * STATES_MOST:
                parts = [unbeaten(States.join(parts))]
                if parts[0].cost.size > COSTS_MOST // 2 or len(parts[0]) > 2 * STATES_MOST:
                    raise TooManyStates
        return States.join(parts)

    def _ordered(
        self, b: int, outer: States, at: np.ndarray, place: np.ndarray, hopeful: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs [E] in all orders of the level's loops that may differ in cost and lead to a mapping within the limits: numbers
        int32 of the pair and of the order. hopeful: bool [E, tensors], where the innermost loop leaves a tensor unchanged."""
        moving = self._factors(outer, at, place) > 1
        mask = moving @ (1 << np.arange(moving.shape[1]))
        # There may be some 10^8.
        pairs, numbers = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for code in np.unique(mask).tolist():
            if (b, code) not in self._every_order:
                dims = tuple(d for d in range(moving.shape[1]) if code >> d & 1)
                found = distinct_orders(self._book.rules, self._prefix[b], dims) if dims else (None,)
                self._every_order[b, code] = [self._number(order) for order in found]
            rows = np.flatnonzero(mask == code).astype(np.int32)
            for number in self._every_order[b, code]:
                tensor = self._orders[number].tensor if number >= 0 else None
                some = rows if tensor is None else rows[hopeful[rows, tensor]]
                pairs.append(some)
                numbers.append(np.full(len(some), number, np.int32))
        return np.concatenate(pairs), np.concatenate(numbers)

    def _factors(self, outer: States, at: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Bounds of the loops of a level, int64 [E, D]."""
        extents = self.charges.lattice.extents
        return extents[outer.place[at]] // extents[place]

    def _number(self, order: Order | None) -> int:
        if order is None:
            return -1
        if order not in self._order_numbers:
            self._order_numbers[order] = len(self._orders)
            self._orders.append(order)
        return self._order_numbers[order]

    def _pairs(
        self, b: int, outer: States, limits: Targets, search: Search
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of a state and extents inside level b that may lead to a mapping within the limits: int64 [E] each; and whether
        they may if the level's innermost loop leaves a tensor unchanged, bool [E, tensors]."""
        lattice, inside, energy = self.charges.lattice, self.bounds.inside[b], outer.cost[:, 0]
        budget = limits.most(self._cycles)
        if not len(outer):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(TENSORS)), bool)
        # Extents that the most that is left may suffice for, at some packing.
        left = budget - energy  # [S, U]
        candidates = np.flatnonzero((inside <= left.max(axis=0)).any(axis=1))
        scale = np.maximum(np.abs(budget), 1e-300)
        room, needed = (left / scale).max(axis=1), (inside[candidates] / scale).min(axis=1)
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        step = max(1, COMPARED_AT_ONCE // max(1, len(candidates)))
        total = 0
        for first in range(0, len(outer), step):
            some = slice(first, first + step)
            may = lattice.divides(candidates, outer.place[some]) & (needed <= room[some, None] * (1 + 1e-9))
            state, candidate = np.nonzero(may)
            found.append((state + first, candidates[candidate]))
            total += len(state)
            if total > PAIRS_MOST:
                raise TooManyStates
        at, place = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        fits = np.ones(len(at), bool)
        for d, factor in self.bounds.fixed[b].items():
            fits &= lattice.extents[outer.place[at], d] == factor * lattice.extents[place, d]
        for d in np.flatnonzero(np.isfinite(self.bounds.most[b])):
            fits &= lattice.extents[outer.place[at], d] <= self.bounds.most[b, d] * lattice.extents[place, d]
        at, place = at[fits], place[fits]
        step = max(1, PRICED_AT_ONCE // len(self._cycles))
        kept, least = [np.zeros(0, np.int64)], [np.zeros((0, len(self._cycles)))]
        hopeful = np.zeros((len(at), len(TENSORS)), bool)
        counts = np.zeros(len(self._cycles), np.int64)
        for first in range(0, len(at), step):
            self._go_on()
            some = np.arange(first, min(first + step, len(at)))
            some = some[(inside[place[some]] <= left[at[some]]).any(axis=1)]
            may_be_idle = self._may_be_idle(outer, at[some], place[some])
            promise = np.full((len(some), len(self._cycles)), np.inf)
            for t in range(len(TENSORS)):
                own = self._promise(b, outer, at[some], place[some], t) + energy[at[some]]
                hopeful[some, t] = (own <= budget).any(axis=1)
                np.minimum(promise, own, out=promise, where=may_be_idle[:, t, None])
            within = promise <= budget
            counts += within.sum(axis=0)
            rows = np.flatnonzero(within.any(axis=1))
            kept.append(some[rows])
            if search.beam is not None or search.most < PAIRS_MOST:
                least.append(np.where(within[rows], promise[rows], np.inf))
        rows = np.concatenate(kept)
        if search.beam is not None:
            rows = rows[least_rows(np.concatenate(least), PRICED_PER_STATE * search.beam)]
        elif (counts > search.most).any():
            # Packings with too many pairs are left out.
            many = counts > search.most
            self.complete &= ~many
            energy[:, many] = np.inf
            rows = rows[np.isfinite(np.concatenate(least)[:, ~many]).any(axis=1)]
        return at[rows], place[rows], hopeful[rows]

    def _may_be_idle(self, outer: States, at: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Which tensors the innermost loop outside a level's extents may leave unchanged, bool [E, tensors]: one along a dimension
        that the level has loops of or, where it has none, that of the level outside. Where it may leave none unchanged, no bound is
        kept but that of every tensor."""
        apart = self.charges.lattice.places[outer.place[at]] - self.charges.lattice.places[place]
        moving = np.stack([apart[:, list(dims)].any(axis=1) for dims in self._book.rules.idle], axis=1)
        moving |= apart[:, self.bounds.never_idle].any(axis=1, keepdims=True)
        tensor = outer.tensor[at][:, None]
        goes_on = (tensor == np.arange(len(TENSORS))) | (tensor == NO_TENSOR)
        return np.where(apart.any(axis=1, keepdims=True), moving, goes_on)

    def _promise(self, b: int, outer: States, at: np.ndarray, place: np.ndarray, tensor: int) -> np.ndarray:
        """pJ of boundary b and those inside it, at least, where the innermost loops leave a tensor unchanged, [E, U]."""
        lattice, dims = self.charges.lattice, list(self._book.rules.idle[tensor])
        part, windows, whole = self.bounds.parts[b][tensor], self.bounds.windows[b], outer.place[at]
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
        chains = list(zip(part.others, part.own, part.ended, strict=True))
        if tensor == INPUTS:
            on = goes_on if windows is not None else np.ones_like(joins)
            found = [
                others[place] + np.where(on[:, None], own[crossing], ended[mixed]) for others, own, ended in chains
            ]
            return functools.reduce(np.minimum, found)
        found = functools.reduce(np.minimum, [others[place] + own[crossing] for others, own, _ in chains])
        if windows is None:
            return found + part.closed_inputs[place]
        inputs = part.closed_inputs[place]
        for d in windows.dims:
            if d in dims:
                np.minimum(inputs, part.plain_inputs[place + apart[:, d]], out=inputs)
        on = np.flatnonzero(goes_on)
        inputs[on] = np.minimum(inputs[on], part.open_inputs[place[on]])
        return found + inputs

    def _priced(
        self, b: int, outer: States, at: np.ndarray, place: np.ndarray, number: np.ndarray, limits: Targets
    ) -> States:
        """The states that come of pairs [E] whose loops in level b have orders of the given numbers; -1: there are none."""
        factors = self._factors(outer, at, place)
        tensor, run, window = outer.tensor[at], outer.run[at], outer.window[at]
        for code in np.unique(number).tolist():
            if code < 0:
                continue
            order, rows = self._orders[code], np.flatnonzero(number == code)
            before = run[rows], tensor[rows]
            tensor[rows] = NO_TENSOR if order.tensor is None else order.tensor
            run[rows] = factors[rows][:, list(order.run)].prod(axis=1)
            if order.whole_run:
                run[rows] *= np.where(before[1] == tensor[rows], before[0], 1)
            if self._book.rules.pairs:
                of_rows = outer.window[at[rows]], outer.place[at[rows]], place[rows]
                window[rows] = self._book.numbers(b, *of_rows, order)
        groups = np.ones(len(at), np.int64) if self._crossings.keeps(b, INPUTS) else outer.groups[at]
        if b in self.charges.overlapping:
            groups = groups * self.charges.overlapping[b][place]
        cost, exact = self._crossings.cost(b, place, tensor, run, window, groups)
        cost += outer.cost[at]
        if b == 1 and self.charges.overlapping:
            cost += self._crossings.of_macs(groups)
        states = States(place, tensor, run, window, groups, cost, outer.exact[at] & exact, at, number)
        least = cost + self._inside(b, states)
        kept = limits.keeps(least[:, 0], self._slowed(least))
        cost[:, 0][~kept] = np.inf
        return states.take(np.flatnonzero(kept.any(axis=1)))

    def _loops(self, history: list[States], last: int) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The temporal loops of the mapping that ends in a state, see `Placed`."""
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
        return tuple(levels)
