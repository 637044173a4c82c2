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
        # The extents inside a level that windows depend on: those of one pair, unless neighbours may forward; which that is does
        # not follow from loops that leave Inputs unchanged.
        choices = {pair: pair for pair in pairs} | {None: tuple(sliding)}
        self._extents = {pair: lattice.places[:, dims].sum(axis=1) for pair, dims in choices.items()}
        self._windows: list[WindowLoops] = [()]
        self._numbers: dict[WindowLoops, int] = {(): NO_WINDOW}
        self._pair_of = {d: pair for pair in pairs for d in pair}
        self._unit_of = {d: unit for pair in pairs for d, unit in zip(pair, self._units(pair), strict=True)}
        # The innermost level where a loop of a dimension moves as far as one of the same bounds at level b: [b][d].
        self._widths, widths = charges.inside.tolist(), charges.inside[1:]
        alike = (widths[None] == widths[:, None]).argmax(axis=1)
        alike[:, [d for d in range(len(bounds)) if d not in self._pair_of]] = 0
        self._alike = alike.tolist()
        self._known: dict[tuple[int, tuple[int, ...], bool], dict[int, int]] = {}
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
        # Places of extents are places of what they multiply to, so their difference is that of the loops' bounds.
        factors = self._charges.lattice.places[:, order.window].sum(axis=1)
        key = ((outer if going_on else 0) * size + factors[whole] - factors[place]) * size + extents[place]
        unique, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        known, codes = self._known.setdefault((b, order.window, going_on), {}), unique.tolist()
        new = [i for i, code in enumerate(codes) if code not in known]
        if new:
            rows, lattice, levels = first[new], self._charges.lattice, [self._alike[b][d] for d in order.window]
            inside = lattice.extents[place[rows]]
            bounds = (lattice.extents[whole[rows]] // inside)[:, order.window].tolist()
            outside = outer[rows].tolist() if going_on else [NO_WINDOW] * len(new)
            for i, bound, beyond, within in zip(new, bounds, outside, inside.tolist(), strict=True):
                loops = tuple(zip(order.window, bound, levels, strict=True))
                window = joined(self.rules, loops, self._windows[beyond])
                known[codes[i]] = self._number(self._trimmed(b, window, within))
        return np.array([known[code] for code in codes], np.int64)[inverse.reshape(-1)]

    def _number(self, window: WindowLoops) -> int:
        if window not in self._numbers:
            self._numbers[window] = len(self._windows)
            self._windows.append(window)
        return self._numbers[window]

    def _trimmed(self, b: int, window: WindowLoops, extents: list[int]) -> WindowLoops:
        """A window without the outermost loops that never matter; extents: of the temporal loops inside boundary b."""
        # The pairs of dimensions along which it slides: one, unless neighbours may forward.
        pairs = list(dict.fromkeys(self._pair_of[d] for d, _, _ in window if d in self._pair_of))
        if not pairs:
            return window
        grown = {d: self._unit_of[d] * extents[d] for pair in pairs for d in pair}
        moves = []
        for d, bound, level in window:
            if d in grown:
                move = grown[d] * self._widths[level + 1][d]
                moves.append(tuple(move if d in pair else 0 for pair in pairs))
                grown[d] *= bound
            else:
                moves.append((0,) * len(pairs))
        return window[: needed(moves, [self._inside(b, pair, extents) for pair in pairs])]

    def _inside(self, b: int, pair: tuple[int, int], extents: list[int]) -> Inside:
        own = extents[pair[0]], extents[pair[1]]
        key = b, *pair, *own
        if key not in self._insides:
            units, charges = self._units(pair), self._charges
            widths = charges.inside[: b + 1, pair]
            reach = np.array(units) * own * widths * (charges.spatial[: b + 1, pair] - 1)
            spread = tuple((k, o) for k, o in widths.tolist())
            self._insides[key] = Inside(units, own, spread, int(reach.sum(axis=1).max()))
        return self._insides[key]

    def _units(self, pair: tuple[int, int]) -> tuple[int, int]:
        """Elements that a step along each of a pair of dimensions moves by."""
        rank = next(rank for rank, *dims in PAIRS if pair[0] in dims)
        kernel, output = self._charges.coefficients[INPUTS, rank, list(pair)].tolist()
        return kernel, output

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
