"""The windows of a spread, by number, and what crosses its boundaries in them: the same for all packings.

Axes: E pairs of a state and the extents that a level's loops leave inside, X extents.
"""

from __future__ import annotations

import numpy as np

from mqjax.cost.exact.nest import PAIRS
from mqjax.mapper.levels.bounds import idle_dims
from mqjax.mapper.levels.charges import INPUTS, Charges
from mqjax.mapper.levels.coincidences import Inside, needed
from mqjax.mapper.levels.runs import LoopRules, Order, WindowLoops, joined
from mqjax.mapspace.doubt import PAIRS as DIM_PAIRS

NO_WINDOW = 0


class WindowBook:
    """Numbers for windows as they are met; NO_WINDOW is the empty one."""

    def __init__(self, charges: Charges) -> None:
        self._charges, space = charges, charges.space
        bounds, lattice = space.layer.bounds, charges.lattice
        pairs = tuple((a, b) for a, b in DIM_PAIRS if bounds[a] > 1 and bounds[b] > 1)
        sliding = [d for pair in pairs for d in pair]
        idle = idle_dims(space)
        forwards = bool((charges.spatial[:, sliding] > 1).any())
        self.rules = LoopRules(tuple(map(tuple, idle)), pairs, INPUTS, forwards)
        # What windows depend on, inside a level and with it: the extents of all loops that a window may have. It has those of
        # one pair; which that is does not follow from loops that leave Inputs unchanged.
        choices = {pair: pair for pair in pairs} | {None: tuple(sliding)}
        self._extents = {pair: lattice.places[:, [*dims, *idle[INPUTS]]].sum(axis=1) for pair, dims in choices.items()}
        self._windows: list[WindowLoops] = [()]
        self._numbers: dict[WindowLoops, int] = {(): NO_WINDOW}
        self._known: dict[tuple[int, Order], dict[int, int]] = {}
        self._insides: dict[tuple[int, ...], Inside] = {}
        self._crossings: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def numbers(self, b: int, outer: np.ndarray, whole: np.ndarray, place: np.ndarray, order: Order) -> np.ndarray:
        """Numbers int64 [E] of the windows of the loops of level b, in some order, inside the windows `outer`; whole, place:
        extents of the temporal loops inside level b with its own and without, flat."""
        if not order.window:
            return np.full(len(place), NO_WINDOW)
        size, going_on = self._charges.lattice.size, order.whole_window
        extents = self._extents[next((pair for d in order.window if (pair := self.rules.pair(d))), None)]
        key = ((outer if going_on else 0) * size + extents[whole]) * size + extents[place]
        unique, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        known = self._known.setdefault((b, order), {})
        found = []
        for code, row in zip(unique.tolist(), first.tolist(), strict=True):
            if code not in known:
                beyond = self._windows[outer[row]] if going_on else ()
                known[code] = self._number(b, beyond, int(whole[row]), int(place[row]), order)
            found.append(known[code])
        return np.array(found, np.int64)[inverse.reshape(-1)]

    def _number(self, b: int, beyond: WindowLoops, whole: int, place: int, order: Order) -> int:
        lattice = self._charges.lattice
        inside = lattice.extents[place].tolist()
        factors = (lattice.extents[whole] // lattice.extents[place]).tolist()
        window = joined(self.rules, tuple((d, factors[d], self._alike(b, d)) for d in order.window), beyond)
        window = self._trimmed(b, window, inside)
        if window not in self._numbers:
            self._numbers[window] = len(self._windows)
            self._windows.append(window)
        return self._numbers[window]

    def _alike(self, b: int, d: int) -> int:
        """The innermost level where a loop of dimension d moves as far as one of the same bounds at level b."""
        if not self.rules.pair(d):
            return 0
        widths = self._charges.inside[1:, d]
        return int(np.flatnonzero(widths == widths[b])[0])

    def _trimmed(self, b: int, window: WindowLoops, extents: list[int]) -> WindowLoops:
        """A window without the outermost loops that never matter; extents: of the temporal loops inside boundary b."""
        pair = self._pair(window)
        if pair is None:
            return window
        charges, rank = self._charges, next(rank for rank, *dims in PAIRS if pair[0] in dims)
        kernel, output = pair
        units = int(charges.coefficients[INPUTS, rank, kernel]), int(charges.coefficients[INPUTS, rank, output])
        key = b, *pair, *(extents[d] for d in pair)
        if key not in self._insides:
            widths = charges.inside[: b + 1, pair]
            own = extents[kernel], extents[output]
            reach = np.array(units) * own * widths * (charges.spatial[: b + 1, pair] - 1)
            spread = tuple((k, o) for k, o in widths.tolist())
            self._insides[key] = Inside(units, own, spread, int(np.max(reach)))
        moves, grown = [], {d: unit * extents[d] for d, unit in zip(pair, units, strict=True)}
        for d, bound, level in window:
            moves.append(grown[d] * int(charges.inside[level + 1, d]) if d in grown else 0)
            if d in grown:
                grown[d] *= bound
        return window[: needed(moves, self._insides[key])]

    def _pair(self, window: WindowLoops) -> tuple[int, int] | None:
        """The pair of dimensions along which a window slides."""
        return next((pair for d, _, _ in window if (pair := self.rules.pair(d))), None)

    def crossing(self, b: int, place: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Elements of Inputs that cross boundary b, and what is left of them where neighbours hand over all that they
        might, int64 [E] each; place: extents inside, windows: their numbers."""
        crossing = np.empty(len(place), np.int64)
        read = np.empty(len(place), np.int64)
        for number in np.unique(windows).tolist():
            if (b, number) not in self._crossings:
                self._crossings[b, number] = self._slide(b, self._windows[number])
            rows = np.flatnonzero(windows == number)
            for values, known in zip((crossing, read), self._crossings[b, number], strict=True):
                values[rows] = known[place[rows]]
        return crossing, read

    def _slide(self, b: int, window: WindowLoops) -> tuple[np.ndarray, np.ndarray]:
        """What `crossing` finds, for all extents, int64 [X] each."""
        charges = self._charges
        box, trips = charges.boxes[b, INPUTS], charges.trips
        if not window:
            return box * trips, box * trips
        extents = charges.lattice.extents
        coefficients = charges.coefficients[INPUTS]
        ranks = {d: rank for rank, *dims in PAIRS for d in dims}
        spatial, inside = charges.spatial[b], charges.inside
        siblings = spatial.prod() > charges.scatter(b, INPUTS)
        pair = self._pair(window)
        along = [
            (coefficients[ranks[d], d] * extents[:, d] * inside[b, d], spatial[d]) for d in pair or () if spatial[d] > 1
        ]
        same: dict[int, int] = {}
        moved, repeated, handed = (
            np.zeros(len(trips), np.int64),
            np.zeros(len(trips), np.int64),
            np.zeros(len(trips), np.int64),
        )
        first = fresh = moved
        weight = trips
        for number, (d, bound, level) in enumerate(window):
            move = moved * 0
            if self.rules.pair(d):
                move = coefficients[ranks[d], d] * extents[:, d] * inside[level + 1, d] * same.get(d, 1)
                same[d] = same.get(d, 1) * bound
            if number == 0:
                first = move
                if self.rules.pair(d):
                    length = charges.lengths(b, INPUTS, extents)[:, ranks[d]]
                    fresh = box // length * np.minimum(length, move)
            apart = move - moved
            weight = weight // bound
            times = (bound - 1) * weight
            alike = (apart == first) if number else np.ones(len(trips), bool)
            repeated = repeated + np.where(alike, times, 0)
            reached = (apart == 0) & siblings
            for unit, children in along:
                reached |= (apart != 0) & (np.abs(apart) <= unit * (children - 1)) & (apart % unit == 0)
            handed = handed + np.where(reached & (fresh > 0), np.where(alike, fresh, box) * times, 0)
            moved = moved + move
        crossing = box * trips - (box - fresh) * repeated
        return crossing, crossing - handed
