"""Mapspaces: all mappings of a layer that a constraint set allows, as arrays (MODEL.md section 11).

A mapping is an index factorisation (for each dimension an ordered product over the tiling levels), a loop permutation
and a split of the spatial loops between X and Y. The *nominal* space is the product of these; the *pruned* space drops
permutations of loops of bound 1; the *distinct* space also drops those that provably cost the same.

Axes: D = 7 dimensions, T tiling levels (inner to outer), F factorisations of one dimension.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mqjax.arch import Arch, TilingLevel
from mqjax.errors import InputError
from mqjax.factors import splits
from mqjax.mapping import Mappings, decode
from mqjax.types import DIMS, RELEVANT, TENSORS, Layer

ROWS_MOST = 2**24
"""Rows of a joint table that are kept in memory at most."""

DISTINCT_MOST = 2**27
"""Distinct mappings that are swept at most: under a minute on two cores."""

PRICED_MOST = 2**18
"""Mappings that are priced one by one at most, where neighbours may forward data."""


class Group(NamedTuple):
    """Dimensions that share a fan-out or a free loop order, with the joint factorisations that fit the fan-outs.

    tables: per dimension its factorisations int32 [F, T]; picks: per dimension the factorisation of each row, int32
    [rows]. weight: float64 [rows], how many pruned choices of permutations and splits of the group's levels fit.
    orders: for each free loop order of the group, (order per level, rows that need it): rows where it is not
    equivalent to an earlier order.
    """

    dims: tuple[int, ...]
    tables: tuple[np.ndarray, ...]
    picks: tuple[np.ndarray, ...]
    weight: np.ndarray
    orders: tuple[tuple[dict[int, tuple[int, ...]], np.ndarray], ...]

    def bounds(self, d: int, t: int, rows: Any = slice(None)) -> np.ndarray:
        """Bounds int32 [rows] of dimension d at tiling level t, of all rows or some."""
        i = self.dims.index(d)
        return self.tables[i][:, t][self.picks[i][rows]]


def _unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of a table of small non-negative integers [N, K], how often each occurs, and each row's place."""
    # One integer per row sorts much faster than the rows themselves.
    radices = [int(n) + 1 for n in rows.max(axis=0, initial=0)]
    key = np.ravel_multi_index(tuple(rows.T), radices) if rows.shape[1] else np.zeros(len(rows), np.int64)
    _, first, inverse, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    return rows[first], counts, inverse.reshape(-1)


class Mapspace:
    """The mapspace of `layer` on `arch` under the constraint set "paper", "arch" or "none".

    Raises `InputError` where the constraints cannot be met, naming the dimension.
    """

    def __init__(self, arch: Arch, layer: Layer, *, constraints: str = "paper") -> None:
        self.arch, self.layer, self.constraints = arch, layer, constraints
        self.tiling: list[TilingLevel] = arch.tiling_levels(constraints)

    def __repr__(self) -> str:
        return f"Mapspace({self.arch.name}, {self.layer.name}, constraints={self.constraints!r}, size={self.size})"

    # --- The nominal space -----------------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """Per dimension the factorisations int64 [F, T], in the reference's order."""
        return tuple(self._table(d) for d in range(len(DIMS)))

    def _table(self, d: int) -> np.ndarray:
        name, bound = DIMS[d], self.layer.bounds[d]
        fixed: dict[int, int] = {}
        for t, level in enumerate(self.tiling):
            factor = level.factors.get(name)
            # A fixed factor above the bound is ignored, as in Timeloop: the dimension is free there.
            if factor is not None and factor <= bound:
                fixed[t] = factor or bound
        product = math.prod(fixed.values())
        free = [t for t in range(len(self.tiling)) if t not in fixed]
        if bound % product or (not free and product != bound):
            raise InputError(
                f"layer {self.layer.name!r} on {self.arch.name!r}: the fixed factors of {name} multiply to {product}, "
                f"which does not divide its bound {bound}; pad the layer, or relax the constraints ('arch' or 'none')"
            )
        rows = splits(bound // product, len(free), bound) if free else np.ones((1, 0), np.int64)
        table = np.empty((len(rows), len(self.tiling)), np.int64)
        table[:, free] = rows
        for t, factor in fixed.items():
            table[:, t] = factor
        return table

    def prefix(self, t: int) -> tuple[int, ...]:
        """Dimensions whose order tiling level t fixes, innermost first; the others follow in any order."""
        return self._prefixes[t]

    @cached_property
    def _prefixes(self) -> list[tuple[int, ...]]:
        return [self._prefix(t) for t in range(len(self.tiling))]

    def _prefix(self, t: int) -> tuple[int, ...]:
        level = self.tiling[t]
        one_dimensional = level.spatial and 1 in self.arch.fanout[level.level]
        # Timeloop ignores the permutation given for the innermost level (MODEL.md section 13, quirk 10).
        if t == 0 or (one_dimensional and not level.permutation):
            return tuple(range(len(DIMS)))
        return tuple(DIMS.index(dim) for dim in level.permutation)

    def free_dims(self, t: int) -> tuple[int, ...]:
        """Dimensions whose order at tiling level t is free, in canonical order."""
        return tuple(d for d in range(len(DIMS)) if d not in self.prefix(t))

    @cached_property
    def free_splits(self) -> tuple[int, ...]:
        """Tiling levels with a free split between X and Y."""
        return tuple(t for t, level in enumerate(self.tiling) if level.spatial and level.split is None)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the nominal subspaces, and their product as "total"."""
        sizes = {
            "index_factorization": math.prod(len(table) for table in self.tables),
            "loop_permutation": math.prod(math.factorial(len(self.free_dims(t))) for t in range(len(self.tiling))),
            "spatial": (len(DIMS) + 1) ** len(self.free_splits),
            "datatype_bypass": 1,
        }
        return {**sizes, "total": math.prod(sizes.values())}

    @property
    def size(self) -> int:
        """Number of nominal mappings, as Timeloop counts."""
        return self.sizes["total"]

    def arrays(self, indices: list[int]) -> Mappings:
        """The nominal mappings with the given indices in 0..size-1, ready for `evaluate`.

        The index is a mixed-radix number: factorisation (C least significant), then permutation, then split.
        """
        arrays = Mappings.empty(len(indices), len(self.arch.levels))
        arrays.keep[:] = [level.keep for level in self.arch.levels]
        for dims in (arrays.temporal_dim, arrays.spatial_dim):
            dims[:] = np.arange(len(DIMS))
        for row, index in enumerate(indices):
            self._fill(arrays, row, index)
        return arrays

    def _fill(self, arrays: Mappings, row: int, index: int) -> None:
        if not 0 <= index < self.size:
            raise InputError(f"mapping index {index} is outside 0..{self.size - 1}")
        factors = np.empty((len(DIMS), len(self.tiling)), np.int64)
        for d, table in enumerate(self.tables):
            index, digit = divmod(index, len(table))
            factors[d] = table[digit]
        orders = []
        for t in range(len(self.tiling)):
            free = self.free_dims(t)
            index, digit = divmod(index, math.factorial(len(free)))
            orders.append([*self.prefix(t), *_permutation(free, digit)])
        for t, level in enumerate(self.tiling):
            split = level.split
            if t in self.free_splits:
                index, split = divmod(index, len(DIMS) + 1)
            self._write_level(arrays, row, level, orders[t], factors[orders[t], t], split)

    @staticmethod
    def _write_level(arrays: Mappings, row: int, level: TilingLevel, order, bounds, split: int | None) -> None:
        s = level.level
        if level.spatial:
            arrays.spatial_dim[row, s], arrays.spatial_bound[row, s] = order, bounds
            arrays.spatial_axis[row, s] = np.arange(len(DIMS)) >= (split or 0)
        else:
            arrays.temporal_dim[row, s], arrays.temporal_bound[row, s] = order, bounds

    def mapping(self, index: int) -> list[dict[str, Any]]:
        """The nominal mapping `index` (see `arrays`) as a record."""
        return decode(self.arch, self.arrays([index]), 0)

    def sample(self, key: Any, n: int) -> Mappings:
        """n nominal mappings drawn uniformly with the JAX random key `key`; most will not fit the array."""
        import jax

        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        generator = np.random.default_rng(seed)
        radices = [len(table) for table in self.tables]
        radices += [math.factorial(len(self.free_dims(t))) for t in range(len(self.tiling))]
        radices += [len(DIMS) + 1] * len(self.free_splits)
        digits = [generator.integers(0, radix, n) for radix in radices]
        indices = []
        for row in range(n):
            index = 0
            for radix, digit in zip(reversed(radices), reversed(digits), strict=True):
                index = index * radix + int(digit[row])
            indices.append(index)
        return self.arrays(indices)

    # --- The pruned space ------------------------------------------------------------------------------------------

    def _fitting_choices(self, t: int, bounds: dict[int, int]) -> int:
        """Choices of order and split of tiling level t, in the pruned space, that fit the fan-out, given the bounds of
        its loops. Temporal loops always fit."""
        level = self.tiling[t]
        pruned = level.split is None
        prefix = [d for d in self.prefix(t) if not pruned or bounds.get(d, 1) > 1]
        free = [d for d in self.free_dims(t) if not pruned or bounds.get(d, 1) > 1]
        if not level.spatial:
            return math.factorial(len(free))
        width, height = self.arch.fanout[level.level]
        fits = 0
        for order in itertools.permutations(free):
            loops = [bounds.get(d, 1) for d in (*prefix, *order)]
            for split in range(len(loops) + 1) if pruned else (level.split,):
                fits += math.prod(loops[:split]) <= width and math.prod(loops[split:]) <= height
        return fits

    @cached_property
    def pruned_size(self) -> int:
        """Number of mappings when loops of bound 1 are not permuted (MODEL.md section 11.3)."""
        # The choices at a level depend only on how many of its loops exceed 1, so count factorisations by such counts.
        constant, varying = 1, []
        for t, level in enumerate(self.tiling):
            if level.split is not None:
                constant *= math.factorial(len(self.free_dims(t)))
            elif level.spatial or len(self.free_dims(t)) > 1:
                varying.append(t)
        ways: dict[tuple[int, ...], int] = {(0,) * (2 * len(varying)): 1}
        for d, table in enumerate(self.tables):
            moving = (table[:, varying] > 1).astype(np.int64)
            free = moving * [d in self.free_dims(t) for t in varying]
            unique, counts = _unique_rows(np.concatenate([free, moving], axis=1))[:2]
            grown: dict[tuple[int, ...], int] = {}
            for seen, before in ways.items():
                for row, count in zip(unique.tolist(), counts.tolist(), strict=True):
                    key = tuple(a + b for a, b in zip(seen, row, strict=True))
                    grown[key] = grown.get(key, 0) + before * count
            ways = grown
        total = 0
        for counts, before in ways.items():
            free, moving = counts[: len(varying)], counts[len(varying) :]
            for t, orders, loops in zip(varying, free, moving, strict=True):
                before *= math.factorial(orders) * (loops + 1 if self.tiling[t].spatial else 1)
            total += before
        return constant * total

    # --- The distinct space, as joint tables -----------------------------------------------------------------------

    @cached_property
    def too_large(self) -> bool:
        """Whether the space has more mappings than can be covered in memory and in minutes."""
        limit = PRICED_MOST if self.may_forward else DISTINCT_MOST
        for dims in self._coupled():
            if math.prod(len(self.tables[d]) for d in dims) > ROWS_MOST:
                return True
            orders = math.prod(len(choices) for _, choices in self._free_orders(dims))
            if orders > 2**12:
                return True
        sizes = []
        for group in self._joined:
            needs = [need for _, _, need in self._needs(group)]
            sizes.append(math.prod([need.sum(axis=1) for need in needs], start=np.ones(len(group.weight))).sum())
        return math.prod(sizes) > limit

    @cached_property
    def _joined(self) -> tuple[Group, ...]:
        """The groups without their orders, which may be many."""
        return tuple(self._group(dims) for dims in self._coupled())

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Independent groups of dimensions; the distinct space is the union over loop orders of their products."""
        return tuple(group._replace(orders=self._orders(group)) for group in self._joined)

    @property
    def distinct(self) -> int:
        """Number of mappings that fit the fan-outs and may differ in cost: what is evaluated to cover the space."""
        return math.prod(sum(len(rows) for _, rows in group.orders) for group in self.groups)

    @property
    def fanout_valid(self) -> int:
        """Number of mappings of the pruned space that fit the fan-outs."""
        return math.prod(round(float(group.weight.sum())) for group in self.groups)

    def movable(self, t: int) -> list[int]:
        """Dimensions that may have a bound above 1 at tiling level t."""
        return [d for d in range(len(DIMS)) if self.tables[d][:, t].max() > 1]

    def slots(self, t: int) -> tuple[int, ...]:
        """Dimensions that some layer may tile at tiling level t: those whose factor is not fixed to 1."""
        factors = self.tiling[t].factors
        return tuple(d for d in range(len(DIMS)) if factors.get(DIMS[d]) != 1)

    def _coupled(self) -> list[tuple[int, ...]]:
        """Dimensions grouped so that every fan-out and every free loop order concerns one group only.

        The groups follow from the constraints alone, so that one compiled program serves every layer.
        """
        group = list(range(len(DIMS)))
        for t, level in enumerate(self.tiling):
            tied = self.slots(t) if level.spatial else [d for d in self.slots(t) if d in self.free_dims(t)]
            for d in tied[1:]:
                old, new = group[d], group[tied[0]]
                group = [new if g == old else g for g in group]
        return [tuple(d for d in range(len(DIMS)) if group[d] == g) for g in sorted(set(group))]

    def _group(self, dims: tuple[int, ...]) -> Group:
        spatial = [t for t, level in enumerate(self.tiling) if level.spatial]
        tables = tuple(self.tables[d].astype(np.int32) for d in dims)
        most = np.array([math.prod(self.arch.fanout[self.tiling[t].level]) for t in spatial], np.int32)
        # Join row numbers rather than rows, dropping at once what exceeds a fan-out.
        picks: list[np.ndarray] = []
        used = np.ones((1, len(spatial)), np.int32)
        for table in tables:
            factors = table[:, spatial]
            fits = np.ones((len(used), len(table)), bool)
            for s, limit in enumerate(most):
                fits &= used[:, s, None] * factors[:, s] <= limit
            left, right = np.nonzero(fits)
            picks = [*(pick[left] for pick in picks), right.astype(np.int32)]
            used = used[left] * factors[right]
        group = Group(dims, tables, tuple(picks), np.ones(len(used)), ())
        weight = group.weight
        for t in range(len(self.tiling)):
            if any(d in dims for d in self.movable(t)):
                weight *= self._weights(t, group)
        if not weight.all():
            fits = np.flatnonzero(weight)
            group = group._replace(picks=tuple(pick[fits] for pick in picks), weight=weight[fits])
        return group

    def _weights(self, t: int, group: Group) -> np.ndarray | float:
        """Fitting choices of tiling level t for each row of a group."""
        free, dims = set(self.free_dims(t)), group.dims
        if not self.tiling[t].spatial and len(free & set(dims)) < 2:
            return 1.0
        level = self.tiling[t]
        if level.split is not None and not free:
            fits: Any = True
            for part, limit in zip(
                (self.prefix(t)[: level.split], self.prefix(t)[level.split :]),
                self.arch.fanout[level.level],
                strict=True,
            ):
                fits = fits & (math.prod(group.bounds(d, t) for d in part if d in dims) <= limit)
            return np.asarray(fits, np.float64)
        unique, _, inverse = _unique_rows(np.stack([group.bounds(d, t) for d in dims], axis=1))
        fitting = [self._fitting_choices(t, dict(zip(dims, row, strict=True))) for row in unique.tolist()]
        return np.array(fitting, np.float64)[inverse]

    def _free_orders(self, dims: tuple[int, ...]) -> list[tuple[int, list[tuple[int, ...]]]]:
        """Temporal tiling levels with a free order of several of these dimensions, and their orders."""
        levels = []
        for t, level in enumerate(self.tiling):
            free = [d for d in self.movable(t) if d in self.free_dims(t) and d in dims]
            if not level.spatial and len(free) > 1:
                levels.append((t, list(itertools.permutations(free))))
        return levels

    def _needs(self, group: Group) -> list[tuple[int, list[tuple[int, ...]], np.ndarray]]:
        """For each level of `_free_orders`, its orders, and which of them each row needs, bool [rows, orders]."""
        return [(t, orders, self._needed(t, orders, group)) for t, orders in self._free_orders(group.dims)]

    def _orders(self, group: Group) -> tuple[tuple[dict[int, tuple[int, ...]], np.ndarray], ...]:
        """Loop orders of the group's free temporal levels, each with the rows that need it."""
        levels = self._needs(group)
        result = []
        for choice in itertools.product(*(range(len(orders)) for _, orders, _ in levels)):
            needed = np.ones(len(group.weight), bool)
            for (_, _, need), pick in zip(levels, choice, strict=True):
                needed &= need[:, pick]
            if needed.any():
                order = {t: orders[pick] for (t, orders, _), pick in zip(levels, choice, strict=True)}
                result.append((order, np.flatnonzero(needed).astype(np.int32)))
        return tuple(result)

    def _needed(self, t: int, orders: list[tuple[int, ...]], group: Group) -> np.ndarray:
        """bool [rows, orders]: the order may cost differently from every earlier one, given which bounds exceed 1."""
        dims = orders[0]
        moving = np.stack([group.bounds(d, t) > 1 for d in dims], axis=1)
        unique, _, inverse = _unique_rows(moving)
        needed = np.zeros((len(unique), len(orders)), bool)
        for i, flags in enumerate(unique):
            active = {d for d, flag in zip(dims, flags, strict=True) if flag}
            seen = set()
            for j, order in enumerate(orders):
                signature = self._order_signature(t, [d for d in order if d in active])
                needed[i, j] = signature not in seen
                seen.add(signature)
        return needed[inverse]

    def _order_signature(self, t: int, loops: list[int]) -> tuple:
        """What the order of adjacent loops of tiling level t, innermost first, can change in the cost.

        A tensor without halo is re-sent from its first relevant loop outwards, so it only matters which irrelevant
        loops come before that one. A tensor with halo may depend on the whole order. Tensors kept by no inner level do
        not depend on it (MODEL.md section 6).
        """
        if self.may_forward:
            return tuple(loops)
        signature = []
        for tensor in range(len(TENSORS)):
            if not any(level.keep[tensor] for level in self.arch.levels[: self.tiling[t].level]):
                continue
            if self.has_halo and TENSORS[tensor] == "Inputs":
                signature.append(tuple(loops))
                continue
            relevant = [DIMS[d] in RELEVANT[self.layer.shape][tensor] for d in loops]
            first = relevant.index(True) if any(relevant) else len(loops)
            signature.append(frozenset(loops[:first]))
        return tuple(signature)

    def materialize(self, order: dict[int, tuple[int, ...]], rows: np.ndarray) -> Mappings:
        """Mappings of the distinct space as arrays: per mapping one row of each group, int [N, groups], with the free
        loops of tiling level t in the order order[t]. Spatial loops take the first split (and order) that fits the array."""
        arrays = Mappings.empty(len(rows), len(self.arch.levels))
        arrays.keep[:] = [level.keep for level in self.arch.levels]
        for i, picks in enumerate(rows):
            factors = np.ones((len(DIMS), len(self.tiling)), np.int64)
            for group, row in zip(self.groups, picks, strict=True):
                for d, table, pick in zip(group.dims, group.tables, group.picks, strict=True):
                    factors[d] = table[pick[row]]
            for t, level in enumerate(self.tiling):
                loops, split = self._fitting(t, factors[:, t], order.get(t, ()))
                self._write_level(arrays, i, level, loops, factors[loops, t], split)
        return arrays

    def _fitting(self, t: int, bounds: np.ndarray, order: tuple[int, ...]) -> tuple[list[int], int | None]:
        """Loop order of tiling level t, innermost first, and the split that fits its fan-out."""
        free = self.free_dims(t)
        level = self.tiling[t]
        loops = [*self.prefix(t), *(d for d in free if d not in order), *order]
        if not level.spatial:
            return loops, None
        if level.split is None:
            # As in the pruned space: loops of bound 1 lie innermost, and on X.
            loops.sort(key=lambda d: bounds[d] > 1)
        width, height = self.arch.fanout[level.level]
        fixed = [d for d in loops if d not in free]
        for end in itertools.permutations([d for d in loops if d in free]):
            candidate = [*fixed, *end] if level.split is not None or free else loops
            for split in range(len(DIMS) + 1) if level.split is None else (level.split,):
                x, y = math.prod(bounds[candidate[:split]]), math.prod(bounds[candidate[split:]])
                if x <= width and y <= height:
                    return candidate, split
        raise AssertionError("rows of the distinct space fit the fan-outs")

    # --- What neighbouring tiles and elements can share -------------------------------------------------------------

    @property
    def has_halo(self) -> bool:
        """Whether neighbouring tiles of Inputs can overlap: a kernel and an output extent above 1 along one side."""
        layer = self.layer
        return (layer.R > 1 and layer.P > 1) or (layer.S > 1 and layer.Q > 1)

    @cached_property
    def may_forward(self) -> bool:
        """Whether some mapping may have neighbour forwarding, or multicast groups that are no product of bounds.

        Conservative: true only costs time. Forwarding needs a step of the temporal loops that moves Inputs as far as
        the data of two spatial neighbours lie apart. A step along one dimension jumps over all that is inside it, so
        only the second dimension of the same rank (R with P, S with Q) can undo that, and only if nothing moves the
        other ranks meanwhile (MODEL.md section 6).
        """
        for pair, others in (("RP", "SQ"), ("SQ", "RP")):
            first, second = (DIMS.index(d) for d in pair)
            if self.layer.bounds[first] == 1 or self.layer.bounds[second] == 1:
                continue
            for t in (t for t, level in enumerate(self.tiling) if level.spatial and self.movable(t)):
                here = set(self.movable(t))
                if {first, second} <= here:
                    return True
                outside = [u for u in range(t + 1, len(self.tiling)) if not self.tiling[u].spatial]
                moving = {d for u in outside for d in self.movable(u)}
                meets = (first in here and second in moving) or (second in here and first in moving)
                if (meets or {first, second} <= moving) and not self._shielded(outside, {first, second}, others):
                    return True
        return False

    def _shielded(self, outside: list[int], pair: set[int], others: str) -> bool:
        """Whether a loop of the other rank, of bound above 1 in every mapping, lies inside all outside loops of the
        pair: their steps then also move that rank back, where spatial neighbours do not differ."""
        for u in outside:
            if any(self.tables[DIMS.index(d)][:, u].min() > 1 for d in others):
                return True
            if pair & set(self.movable(u)):
                return False
        return True


def _permutation(items: tuple[int, ...], digit: int) -> list[int]:
    """The permutation of `items` with number `digit` in lexicographic order (factoradic)."""
    rest, result = list(items), []
    for size in range(len(items), 0, -1):
        position, digit = divmod(digit, math.factorial(size - 1))
        result.append(rest.pop(position))
    return result
