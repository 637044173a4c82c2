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
from mqjax.projection import SLIDING_DIMS

NO_WINDOW = 0


class WindowBook:
    """Numbers for windows as they are met; NO_WINDOW is the empty one."""

    def __init__(self, charges: Charges) -> None:
        self._charges, space = charges, charges.space
        bounds, lattice = space.layer.bounds, charges.lattice
        pairs = tuple((a, b) for a, b in SLIDING_DIMS if bounds[a] > 1 and bounds[b] > 1)
        sliding = [d for pair in pairs for d in pair]
        idle = idle_dims(space)
        forwards = bool((charges.spatial[:, sliding] > 1).any())
        self.rules = LoopRules(tuple(map(tuple, idle)), pairs, INPUTS, forwards)
        # What windows depend on, inside a level and with it: the extents of all loops that a window may have. It has those of
        # one pair, unless neighbours may forward; which that is does not follow from loops that leave Inputs unchanged.
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
        own = next((pair for d in order.window if (pair := self.rules.pair(d))), None)
        extents = self._extents[None if self.rules.forwards else own]
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
        pairs = self._pairs(window)
        if not pairs:
            return window
        insides, grown = [], {}
        for pair in pairs:
            units = self._units(pair)
            own = extents[pair[0]], extents[pair[1]]
            grown |= {d: unit * extent for d, unit, extent in zip(pair, units, own, strict=True)}
            key = b, *pair, *own
            if key not in self._insides:
                charges = self._charges
                widths = charges.inside[: b + 1, pair]
                reach = np.array(units) * own * widths * (charges.spatial[: b + 1, pair] - 1)
                spread = tuple((k, o) for k, o in widths.tolist())
                self._insides[key] = Inside(units, own, spread, int(reach.sum(axis=1).max()))
            insides.append(self._insides[key])
        moves = []
        for d, bound, level in window:
            move = grown[d] * int(self._charges.inside[level + 1, d]) if d in grown else 0
            moves.append(tuple(move if d in pair else 0 for pair in pairs))
            if d in grown:
                grown[d] *= bound
        return window[: needed(moves, insides)]

    def _units(self, pair: tuple[int, int]) -> tuple[int, int]:
        """Elements that a step along each of a pair of dimensions moves by."""
        rank = next(rank for rank, *dims in PAIRS if pair[0] in dims)
        kernel, output = self._charges.coefficients[INPUTS, rank, list(pair)].tolist()
        return kernel, output

    def _pairs(self, window: WindowLoops) -> list[tuple[int, int]]:
        """The pairs of dimensions along which a window slides: one, unless neighbours may forward."""
        return [pair for pair in self.rules.pairs if any(d in pair for d, _, _ in window)]

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
        extents, spatial, inside = charges.lattice.extents, charges.spatial[b], charges.inside
        siblings = spatial.prod() > charges.overlapping.get(b, charges.scatter(b, INPUTS))
        none = np.zeros(len(trips), np.int64)
        pairs = self.rules.pairs
        # Axis of pairs: elements along the rank of each.
        moved, first = [none] * len(pairs), [none] * len(pairs)
        same: dict[int, int] = {}
        repeated = handed = fresh = none
        weight = trips
        for number, (d, bound, level) in enumerate(window):
            move = [none] * len(pairs)
            if (pair := self.rules.pair(d)) is not None:
                unit = self._units(pair)[pair.index(d)]
                step = unit * extents[:, d] * inside[level + 1, d] * same.get(d, 1)
                move[pairs.index(pair)] = step
                same[d] = same.get(d, 1) * bound
                if number == 0:
                    rank = next(rank for rank, *dims in PAIRS if d in dims)
                    length = charges.lengths(b, INPUTS, extents)[:, rank]
                    fresh = box // length * np.minimum(length, step)
            first = first if number else move
            apart = [own - before for own, before in zip(move, moved, strict=True)]
            weight = weight // bound
            times = (bound - 1) * weight
            alike = np.all([own == at for own, at in zip(apart, first, strict=True)], axis=0)
            repeated = repeated + (np.where(alike, times, 0) if number else times)
            reached = np.all([self._between(b, pair, own) for pair, own in zip(pairs, apart, strict=True)], axis=0)
            reached &= (np.any(apart, axis=0) | siblings) & (fresh > 0)
            # Whole boxes are handed over only where those of the first loop's steps are apart.
            handed = handed + np.where(reached & (alike | (fresh == box)), np.where(alike, fresh, box) * times, 0)
            moved = [before + own for before, own in zip(moved, move, strict=True)]
        crossing = box * trips - (box - fresh) * repeated
        return crossing, crossing - handed

    def _between(self, b: int, pair: tuple[int, int], apart: np.ndarray) -> np.ndarray:
        """Whether the data of two children at level b may be so many elements `apart` [X] along a pair of dimensions, or not
        at all."""
        charges, dims = self._charges, [d for d in pair if self._charges.spatial[b, d] > 1]
        if not dims:
            return apart == 0
        units = [
            unit * charges.lattice.extents[:, d] * charges.inside[b, d]
            for d, unit in zip(pair, self._units(pair), strict=True)
            if d in dims
        ]
        reach = np.sum([unit * (charges.spatial[b, d] - 1) for d, unit in zip(dims, units, strict=True)], axis=0)
        return (np.abs(apart) <= reach) & (apart % np.gcd.reduce(units) == 0)
