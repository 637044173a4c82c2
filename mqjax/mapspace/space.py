"""Mapspaces: all mappings of a layer that a constraint set allows, as arrays (MODEL.md section 11).

A mapping is an index factorisation (for each dimension an ordered product over the tiling levels), a loop permutation
and a split of the spatial loops between X and Y. The *nominal* space is the product of these; the *pruned* space drops
permutations of loops of bound 1; the *distinct* space also drops those that provably cost the same.

Axes: D dimensions, T tiling levels (inner to outer), F factorisations of one dimension.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from mqjax.arch import Arch, TilingLevel
from mqjax.errors import InputError
from mqjax.mapspace import joint
from mqjax.mapspace.doubt import may_forward
from mqjax.mapspace.factors import splits
from mqjax.mapspace.fitting import Fan
from mqjax.mapspace.mapping import Mappings, decode
from mqjax.projection import LOOPS, SLIDING, TENSORS
from mqjax.types import Layer

_FACTORIALS = np.array([math.factorial(n) for n in range(len(LOOPS) + 1)], object)


class Mapspace:
    """The mapspace of `layer` on `arch` under the constraint set "paper", "arch" or "none".

    Raises `InputError` where the constraints cannot be met, naming the dimension.
    """

    def __init__(self, arch: Arch, layer: Layer, *, constraints: str = "paper") -> None:
        self.arch, self.layer, self.constraints = arch, layer, constraints
        self.dims = range(len(layer.loops))
        self.tiling = [_of_loops(level, layer.loops) for level in arch.tiling_levels(constraints)]

    def __repr__(self) -> str:
        return f"Mapspace({self.arch.name}, {self.layer.name}, constraints={self.constraints!r}, size={self.size})"

    # --- The nominal space -----------------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """Per dimension the factorisations int64 [F, T], in the reference's order."""
        return tuple(self._table(d) for d in self.dims)

    def fixed(self, d: int, bound: int) -> dict[int, int]:
        """Factors of dimension d that the constraints fix, by tiling level, if its bound is `bound`."""
        fixed: dict[int, int] = {}
        for t, level in enumerate(self.tiling):
            factor = level.factors.get(self.layer.loops[d])
            # A fixed factor above the bound is ignored, as in Timeloop: the dimension is free there.
            if factor is not None and factor <= bound:
                fixed[t] = factor or bound
        return fixed

    def divides(self, d: int, bound: int) -> bool:
        """Whether the fixed factors of dimension d, and the upper bounds of the others, allow the bound `bound`."""
        return len(self._factorisations(d, bound)) > 0

    def _factorisations(self, d: int, bound: int) -> np.ndarray:
        """Those of dimension d if its bound is `bound`, int64 [F, T]."""
        fixed = self.fixed(d, bound)
        product = math.prod(fixed.values())
        free = [t for t in range(len(self.tiling)) if t not in fixed]
        if bound % product or (not free and product < bound):
            return np.empty((0, len(self.tiling)), np.int64)
        rows = splits(bound // product, len(free), bound) if free else np.ones((1, 0), np.int64)
        table = np.empty((len(rows), len(self.tiling)), np.int64)
        table[:, free] = rows
        for t, factor in fixed.items():
            table[:, t] = factor
        return table[(table <= self._most(d)).all(axis=1)]

    def _most(self, d: int) -> np.ndarray:
        """The upper bounds of the factors of dimension d, float64 [T]."""
        loop = self.layer.loops[d]
        return np.array([level.max_factors.get(loop, math.inf) for level in self.tiling])

    def _table(self, d: int) -> np.ndarray:
        name, bound = self.layer.letters[d] or self.layer.loops[d], self.layer.bounds[d]
        table = self._factorisations(d, bound)
        if not len(table):
            fixed = self.fixed(d, bound)
            product, free = math.prod(fixed.values()), len(fixed) < len(self.tiling)
            problem = f"which {'does not divide' if free else 'is not'} its bound {bound}"
            if product == bound or (bound % product == 0 and free):
                problem = f"and within the upper bounds of the others nothing makes that its bound {bound}"
            raise InputError(
                f"layer {self.layer.name!r} on {self.arch.name!r}: the fixed factors of {name} multiply to {product}, "
                f"{problem}; pad it (leave out --no-pad), or relax the constraints ('arch' or 'none')"
            )
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
        # Timeloop ignores the permutation given for the innermost temporal loops (MODEL.md section 13, quirk 10).
        if (t == 0 and not level.spatial) or (one_dimensional and not level.permutation):
            return tuple(self.dims)
        return tuple(self.layer.loops.index(dim) for dim in level.permutation)

    def free_dims(self, t: int) -> tuple[int, ...]:
        """Dimensions whose order at tiling level t is free, in canonical order."""
        return tuple(d for d in self.dims if d not in self.prefix(t))

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
            "spatial": (len(self.dims) + 1) ** len(self.free_splits),
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
        arrays = Mappings.empty(len(indices), len(self.arch.levels), len(self.dims))
        arrays.keep[:] = [level.keep for level in self.arch.levels]
        for dims in (arrays.temporal_dim, arrays.spatial_dim):
            dims[:] = np.array(self.dims)
        for row, index in enumerate(indices):
            self._fill(arrays, row, index)
        return arrays

    def _fill(self, arrays: Mappings, row: int, index: int) -> None:
        if not 0 <= index < self.size:
            raise InputError(f"mapping index {index} is outside 0..{self.size - 1}")
        factors = np.empty((len(self.dims), len(self.tiling)), np.int64)
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
                index, split = divmod(index, len(self.dims) + 1)
            self._write_level(arrays, row, level, orders[t], factors[orders[t], t], split)

    def _write_level(self, arrays: Mappings, row: int, level: TilingLevel, order, bounds, split: int | None) -> None:
        s = level.level
        if level.spatial:
            arrays.spatial_dim[row, s], arrays.spatial_bound[row, s] = order, bounds
            arrays.spatial_axis[row, s] = np.array(self.dims) >= (split or 0)
        else:
            arrays.temporal_dim[row, s], arrays.temporal_bound[row, s] = order, bounds

    def mapping(self, index: int) -> list[dict[str, Any]]:
        """The nominal mapping `index` (see `arrays`) as a record."""
        return decode(self.arch, self.layer, self.arrays([index]), 0)

    def sample(self, key: Any, n: int) -> Mappings:
        """n nominal mappings drawn uniformly with the JAX random key `key`; most will not fit the array."""
        import jax

        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        generator = np.random.default_rng(seed)
        radices = [len(table) for table in self.tables]
        radices += [math.factorial(len(self.free_dims(t))) for t in range(len(self.tiling))]
        radices += [len(self.dims) + 1] * len(self.free_splits)
        digits = [generator.integers(0, radix, n) for radix in radices]
        indices = []
        for row in range(n):
            index = 0
            for radix, digit in zip(reversed(radices), reversed(digits), strict=True):
                index = index * radix + int(digit[row])
            indices.append(index)
        return self.arrays(indices)

    # --- The pruned space ------------------------------------------------------------------------------------------

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
        # A column counts a level's moving loops, times 16 plus those of free order. Levels under the same rules are kept
        # in order of their counts. The numbers of ways pass 2^63: they are Python's integers.
        alike = self._alike(varying)
        counts, ways = np.zeros((1, len(varying)), np.int64), np.ones(1, object)
        for d, table in enumerate(self.tables):
            moving = table[:, varying] > 1
            codes = moving * np.array([16 + (d in self.free_dims(t)) for t in varying], np.int64)
            unique, repeats, _ = joint.unique_rows(codes)
            grown = (counts[:, None] + unique).reshape(len(counts) * len(unique), len(varying))
            grown_ways = np.multiply.outer(ways, repeats.astype(object)).reshape(-1)
            for columns in alike:
                grown[:, columns] = np.sort(grown[:, columns], axis=1)
            counts, repeats, place = joint.unique_rows(grown)
            ways = np.add.reduceat(grown_ways[np.argsort(place, kind="stable")], np.cumsum(repeats) - repeats)
        for t, column in zip(varying, counts.T, strict=True):
            moving, free = np.divmod(column, 16)
            ways = ways * _FACTORIALS[free]
            if self.tiling[t].spatial:
                ways = ways * (moving + 1).astype(object)
        return constant * int(ways.sum())

    def _alike(self, levels: list[int]) -> list[list[int]]:
        """Places in `levels`, tiling levels, of those that follow the same rules, where several do."""
        places: dict[Any, list[int]] = {}
        for place, t in enumerate(levels):
            level = self.tiling[t]
            rules = level.spatial, self.free_dims(t), sorted(level.factors.items()), sorted(level.max_factors.items())
            places.setdefault(repr(rules), []).append(place)
        return [found for found in places.values() if len(found) > 1]

    # --- The distinct space, as joint tables -----------------------------------------------------------------------

    def fan(self, t: int) -> Fan:
        """The rules of spatial tiling level t."""
        level = self.tiling[t]
        size = self.arch.fanout[level.level]
        return Fan(self.prefix(t), self.free_dims(t), level.split, size, level.min_utilization)

    def movable(self, t: int) -> tuple[int, ...]:
        """Dimensions that may have a bound above 1 at tiling level t."""
        return self._movable[t]

    @cached_property
    def _movable(self) -> list[tuple[int, ...]]:
        tiling = range(len(self.tiling))
        return [tuple(d for d in self.dims if self.tables[d][:, t].max() > 1) for t in tiling]

    def slots(self, t: int) -> tuple[int, ...]:
        """Dimensions that some layer may tile at tiling level t: those whose factor is not fixed to 1, nor 1 at most."""
        level = self.tiling[t]
        return tuple(
            d for d in self.dims if 1 not in (level.factors.get(x := self.layer.loops[d]), level.max_factors.get(x))
        )

    @property
    def has_halo(self) -> bool:
        """Whether neighbouring tiles of Inputs can overlap: a kernel and an output extent above 1 along one side."""
        return any(all(getattr(self.layer, term.dim) > 1 for term in rank) for rank in SLIDING)

    def relevant(self, tensor: str) -> frozenset[int]:
        """The dimensions that index a tensor."""
        return self._relevant[TENSORS.index(tensor)]

    @cached_property
    def _relevant(self) -> list[frozenset[int]]:
        return [frozenset(map(self.layer.loops.index, dims)) for dims in self.layer.projection.relevant]

    @cached_property
    def may_forward(self) -> bool:
        """Whether the fast path may leave some mapping to the general evaluator (see `mqjax.mapspace.doubt`)."""
        return may_forward(self)

    @cached_property
    def _joined(self) -> tuple[joint.Group, ...] | None:
        return joint.joint_groups(self)

    @cached_property
    def joint_rows(self) -> float:
        """Combinations of factorisations that fit the fan-outs, of the largest group of dimensions that must be looked at
        together: what covering the space one by one takes in memory, at least."""
        return joint.count_rows(self)

    @property
    def too_large(self) -> bool:
        """Whether the space has more mappings than can be covered in memory and in minutes."""
        return self._joined is None

    @property
    def groups(self) -> tuple[joint.Group, ...]:
        """Independent groups of dimensions; the distinct space is the union over loop orders of their products."""
        assert self._joined is not None, "the space is not too large"
        return self._joined

    @property
    def distinct(self) -> int:
        """Number of mappings that fit the fan-outs and may differ in cost: what is evaluated to cover the space."""
        return math.prod(sum(len(rows) for _, rows in group.orders) for group in self.groups)

    @property
    def fanout_valid(self) -> int:
        """Number of mappings of the pruned space that fit the fan-outs, and use as much of each as they must."""
        return math.prod(round(float(group.weight.sum())) for group in self.groups)


def _of_loops(level: TilingLevel, loops: tuple[str, ...]) -> TilingLevel:
    """A tiling level without the dimensions that a layer lacks."""
    kept = [dim for dim in level.permutation if dim in loops]
    split = level.split
    if split is not None:
        split -= sum(dim not in loops for dim in level.permutation[:split])
        split = min(split, len(loops))
    factors, most = (
        {dim: n for dim, n in given.items() if dim in loops} for given in (level.factors, level.max_factors)
    )
    return level._replace(factors=factors, permutation="".join(kept), split=split, max_factors=most)


def _permutation(items: tuple[int, ...], digit: int) -> list[int]:
    """The permutation of `items` with number `digit` in lexicographic order (factoradic)."""
    rest, result = list(items), []
    for size in range(len(items), 0, -1):
        position, digit = divmod(digit, math.factorial(size - 1))
        result.append(rest.pop(position))
    return result
