"""The cost model in plain Python: one mapping at a time, integers and loops, no arrays. Slow and obvious.

Written from MODEL.md alone, without a look at the fast path, and compared with both the reference records and the fast
path. Only what decides validity, traffic, energy and time is computed.
It is one module, however long, so that it can be read beside MODEL.md from the first line to the last, and needs nothing of
the package.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

DIMS = "CMRSNPQG"
EVERY = "CMRSNPQGBK"
"""Also the names that only matrix products use."""

TENSORS = ("Weights", "Inputs", "Outputs")


def ranks(shape: str, dims: dict[str, int], tensor: str) -> list[dict[str, int]]:
    """Each rank as {dimension: coefficient} (MODEL.md section 1)."""
    if shape == "matmul":
        return [{name: 1} for name in {"Weights": "BKN", "Inputs": "BMK", "Outputs": "BMN"}[tensor]]
    if tensor == "Inputs":
        width = {"R": dims.get("Wdilation", 1), "P": dims.get("Wstride", 1)}
        height = {"S": dims.get("Hdilation", 1), "Q": dims.get("Hstride", 1)}
        return [{"N": 1}, {"C": 1}, width, height] + ([{"G": 1}] if shape == "grouped" else [])
    names = {
        "cnn": {"Weights": "CMRS", "Outputs": "NMPQ"},
        "depthwise": {"Weights": "CRS", "Outputs": "NCPQ"},
        "grouped": {"Weights": "GMCRS", "Outputs": "NGMPQ"},
    }
    return [{name: 1} for name in names[shape][tensor]]


def extents(loops: list[tuple[str, int]]) -> dict[str, int]:
    return {d: math.prod(n for dim, n in loops if dim == d) for d in EVERY}


def lengths(box_ranks: list[dict[str, int]], e: dict[str, int]) -> list[int]:
    return [1 + sum(k * (e[d] - 1) for d, k in rank.items()) for rank in box_ranks]


def shift(box_ranks: list[dict[str, int]], dim: str, stride: int) -> tuple[int, ...]:
    return tuple(rank.get(dim, 0) * stride for rank in box_ranks)


def plus(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))


def minus(a, b):
    return tuple(x - y for x, y in zip(a, b, strict=True))


def half_away(x: float) -> int:
    return int(math.floor(abs(x) + 0.5)) * (1 if x >= 0 else -1)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Nest:
    """A mapping as one list of loops, inner to outer, with level and axis (None: temporal)."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.levels = record["mapping"]
        self.loops: list[tuple[int, str, int, str | None]] = []
        for s, level in enumerate(self.levels):
            self.loops += [(s, d, n, axis) for d, n, axis in reversed(level.get("spatial", []))]
            self.loops += [(s, d, n, None) for d, n in reversed(level.get("temporal", []))]

    def spatial(self, s: int) -> list[tuple[str, int, str]]:
        """Inner to outer."""
        return [(d, n, axis) for level, d, n, axis in self.loops if level == s and axis]

    def upto(self, s: int, *, temporal: bool = True) -> dict[str, int]:
        """Extents of levels 0..s; of level s only the spatial loops unless `temporal`."""
        return extents([(d, n) for level, d, n, axis in self.loops if level < s or level == s and (temporal or axis)])

    def temporal_from(self, s: int) -> list[tuple[str, int, int]]:
        """(dimension, bound, stride) of the temporal loops of levels s and above with bound > 1, inner to outer."""
        seen, result = dict.fromkeys(EVERY, 1), []
        for level, d, n, axis in self.loops:
            if level >= s and axis is None and n > 1:
                result.append((d, n, seen[d]))
            seen[d] *= n
        return result

    def offsets(self, s: int, box_ranks) -> list[tuple[int, ...]]:
        """Offset of each child element of level s, by linear id."""
        inside, loops = self.upto(s - 1), []
        for d, n, _ in self.spatial(s):
            loops.append((n, shift(box_ranks, d, inside[d])))
            inside[d] *= n
        zero = (0,) * len(box_ranks)
        result = []
        # itertools.product varies its last factor fastest, so the innermost loop goes last.
        for index in itertools.product(*(range(n) for n, _ in reversed(loops))):
            total = zero
            for i, (_, v) in zip(reversed(index), loops, strict=True):
                total = plus(total, tuple(i * x for x in v))
            result.append(total)
        return result


def groups(offsets: dict[int, tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for element, offset in offsets.items():
        found.setdefault(offset, []).append(element)
    return found


def signatures(offsets: dict[int, tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """{(multicast, scatter): parent accesses per delivered point}."""
    sizes = [len(members) for members in groups(offsets).values()]
    return {(g, sizes.count(g)): sizes.count(g) for g in set(sizes)}


class Movement:
    """Deliveries to the children of level s of one tensor (MODEL.md section 6)."""

    def __init__(self, nest: Nest, s: int, box_ranks, fanout: tuple[int, int]) -> None:
        self.offsets = dict(enumerate(nest.offsets(s, box_ranks)))
        self.fan = len(self.offsets)
        self.accesses: dict[tuple[int, int], int] = {}
        self.link = 0
        self.delta = 0
        if s == 0:
            # The MAC side takes one operand per step, whatever the loops.
            self.deliver(math.prod(n for _, n, _ in nest.temporal_from(0)), self.offsets)
            return
        box = lengths(box_ranks, nest.upto(s - 1))
        full = math.prod(box)

        def fresh(v) -> int:
            return full - math.prod(max(0, length - abs(x)) for length, x in zip(box, v, strict=True))

        loops = [(n, shift(box_ranks, d, stride)) for d, n, stride in nest.temporal_from(s)]
        self.deliver(full, self.offsets)
        if not loops:
            return
        zero = (0,) * len(box)
        first = loops[0][1]
        partial = fresh(first)
        outer = [math.prod(n for n, _ in loops[j + 1 :]) for j in range(len(loops))]
        moves, sums = [], zero
        for _, v in loops:
            moves.append(minus(v, sums))
            sums = plus(sums, v)
        times = [(n - 1) * around for (n, _), around in zip(loops, outer, strict=True)]
        width = max(fanout[0], math.prod(n for _, n, axis in nest.spatial(s) if axis == "X"))
        # Loop 0 runs once more after every step of an outer loop; what came before decides about forwarding.
        self.step(partial, 1 * (loops[0][0] - 1), moves[0], partial == full, width)
        for j in range(1, len(loops)):
            alike = moves[j] == first
            size = partial if alike else full
            self.step(partial, (loops[0][0] - 1) * times[j], moves[0], partial == full or alike, width)
            self.step(size, times[j], moves[j], size == partial and (partial == full or alike), width)

    def deliver(self, points: int, offsets: dict[int, tuple[int, ...]]) -> None:
        self.delta += points
        for signature, per_point in signatures(offsets).items():
            self.accesses[signature] = self.accesses.get(signature, 0) + per_point * points

    def step(self, size: int, times: int, move, same_as_before: bool, width: int) -> None:
        """`times` deliveries of `size` points after a move; neighbours help if the step before had the same shape."""
        if size == 0 or times == 0:
            return
        if same_as_before:
            left = {e: o for e, o in self.offsets.items() if not self.neighbour_holds(e, move, width)}
            if len(groups(left)) < len(groups(self.offsets)):
                self.delta += size * times
                for signature, per_point in signatures(left).items():
                    self.accesses[signature] = self.accesses.get(signature, 0) + per_point * size * times
                self.link += size * (self.fan - len(left)) * times
                return
        self.deliver(size * times, self.offsets)

    def neighbour_holds(self, e: int, move, width: int) -> bool:
        around = [e - width, e + width]
        if e % width > 0:
            around.append(e - 1)
        if e % width < width - 1:
            around.append(e + 1)
        return any(k in self.offsets and minus(self.offsets[k], self.offsets[e]) == tuple(move) for k in around)


class Analysis:
    """What a mapping does at any widths; what it moves is only computed when asked for."""

    def __init__(self, arch: Any, record: dict[str, Any]) -> None:
        self.arch, self.nest = arch, Nest(record)
        depth = range(len(arch.levels))
        self.keep = []
        for level, given in zip(arch.levels, self.nest.levels, strict=True):
            usual = [t for t, kept in zip(TENSORS, level.keep, strict=True) if kept]
            self.keep.append({t: t in given.get("keep", usual) for t in TENSORS})
        self.boxes = {t: ranks(record.get("shape", "cnn"), record["dims"], t) for t in TENSORS}
        fan_xy = [[math.prod(n for _, n, axis in self.nest.spatial(s) if axis == a) for a in "XY"] for s in depth]
        self.too_wide = [s for s in depth if any(f > most for f, most in zip(fan_xy[s], arch.fanout[s], strict=True))]
        self.tile = {t: [math.prod(lengths(self.boxes[t], self.nest.upto(s))) for s in depth] for t in TENSORS}
        self.steps = math.prod(n for _, _, n, axis in self.nest.loops if axis is None)
        mesh = [[math.prod(fan_xy[u][a] for u in range(s + 1, len(fan_xy))) for a in (0, 1)] for s in (-1, *depth)]
        self.macs, *self.instances = (x * y for x, y in mesh)

    @functools.cached_property
    def counts(self) -> dict[str, dict[str, Any]]:
        """Per tensor what `traffic` returns."""
        return {t: traffic(self.arch, self, t) for t in TENSORS}

    def price(self, bits: dict[str, int | None]) -> dict[str, Any]:
        """{"valid": False, "stage", "levels"} or {"valid": True, ...} at these widths per tensor (absent: unpacked)."""
        arch = self.arch

        def per_word(s: int, tensor: str) -> int:
            width, word = bits.get(tensor), arch.levels[s].word_bits
            return 1 if width is None or width >= word else word // width

        def failed(stage: str, where: list[int]) -> dict[str, Any]:
            return {"valid": False, "stage": stage, "levels": [arch.levels[s].name for s in where]}

        if self.too_wide:
            return failed("construct", self.too_wide)
        too_small = []
        for s, level in enumerate(arch.levels):
            needed = sum(ceil_div(self.tile[t][s], per_word(s, t)) for t in TENSORS if self.keep[s][t])
            if level.capacity_words is not None and needed > level.capacity_words:
                too_small.append(s)
        if too_small:
            return failed("pre_evaluation", too_small)

        mac_pj, pace = macs_at(arch, bits)
        energy = self.steps * self.macs * mac_pj
        steps = math.ceil(self.steps * pace)
        cycles, levels = steps, {}
        for s, level in enumerate(arch.levels):
            total, read_demand, write_demand, tensors = 0.0, 0.0, 0.0, {}
            clusters = min(self.instances[s], level.instances / level.cluster)
            for t in TENSORS:
                counts, n = self.counts[t], per_word(s, t)
                words = [ceil_div(count, n) for count in counts["traffic"][s]]
                vectors = [ceil_div(count, level.block_words) for count in words]
                spent = vectors[0] * level.read_pj + vectors[1] * level.fill_pj + vectors[2] * level.update_pj
                spent = spent / (self.instances[s] / clusters) * self.instances[s]
                tensors[t] = {"reads": words[0], "fills": words[1], "updates": words[2], "energy_pJ": spent}
                tensors[t] |= {"tile_size": self.tile[t][s] if self.keep[s][t] else 0}
                tensors[t] |= {"link": ceil_div(counts["link"][s], n)}
                # Not of Outputs at the outermost level, which are read again there (section 9).
                packed = bits.get(t) not in (None, level.word_bits)
                tensors[t]["signatures"] = {
                    key: math.ceil(a) / n if packed else a for key, a in counts["signatures"][s].items() if a > 0
                }
                total += spent
                read_demand += words[0] / steps
                write_demand += (words[1] + words[2]) / steps
            energy += total
            slowdown = 1.0
            for demand, limit in ((read_demand, level.read_bandwidth), (write_demand, level.write_bandwidth)):
                if limit is not None and demand > limit:
                    slowdown = min(slowdown, limit / demand)
            taken = math.ceil(steps / slowdown)
            cycles = max(cycles, taken)
            levels[level.name] = {"energy_total_pJ": total, "cycles": taken, "tensors": tensors}
        return {
            "valid": True,
            "energy_pJ": energy,
            "cycles": cycles,
            "computes": self.steps * self.macs,
            "levels": levels,
        }


def macs_at(arch: Any, bits: dict[str, int | None]) -> tuple[float, Fraction]:
    """Energy of an operation in pJ, and cycles that it takes, at these widths (MODEL.md section 16)."""
    widths = {}
    for t, tensor in enumerate(TENSORS):
        innermost = [level for level in arch.levels if level.keep[t]][0]
        widths[tensor] = bits.get(tensor) or innermost.word_bits
    i, w = widths["Inputs"], widths["Weights"]

    def at(number: Any) -> Fraction:
        if hasattr(number, "values"):
            row = sum(mode < i for mode in number.inputs)
            return Fraction(str(number.values[row][sum(mode < w for mode in number.weights)]))
        if hasattr(number, "constant"):
            a, b, c, d = (Fraction(str(x)) for x in (number.constant, number.inputs, number.weights, number.product))
            return a + b * i + c * w + d * i * w
        return Fraction(str(number))

    slow = arch.mac.cycles_per_operation
    return float(at(arch.mac.energy_pj)), 1 / at(arch.mac.operations_per_cycle) if slow is None else at(slow)


def evaluate(arch: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Cost of one record on an `Arch`: {"valid": False, "stage", "levels"} or {"valid": True, ...}."""
    return Analysis(arch, record).price(record.get("bitwidths") or {})


def holds(arch: Any, bits: dict[str, int | None]) -> bool:
    """Whether no level keeps a tensor that is wider than its word (MODEL.md section 15)."""
    return all(
        (bits.get(t) or 0) <= level.word_bits
        for level in arch.levels
        for t, kept in zip(TENSORS, level.keep, strict=True)
        if kept
    )


def traffic(arch: Any, analysis: Analysis, tensor: str) -> dict[str, Any]:
    """Reads, fills and updates in elements, signatures and link transfers of each level (MODEL.md section 7)."""
    nest, box, tile = analysis.nest, analysis.boxes[tensor], analysis.tile[tensor]
    keep, depth = [kept[tensor] for kept in analysis.keep], len(tile)
    moves = [Movement(nest, s, box, arch.fanout[s]) for s in range(depth)]
    part = [0] * (depth - 1) + [tile[-1]]
    for s in range(depth - 2, -1, -1):
        spatial = any(n > 1 for _, n, _ in nest.spatial(s + 1))
        den = math.prod(lengths(box, nest.upto(s + 1, temporal=False))) if spatial else tile[s]
        part[s] = part[s + 1] * tile[s] // den
    # Ascending (g, sc), the order in which sums are formed.
    accesses: list[dict[tuple[int, int], float]] = [dict(sorted(m.accesses.items())) for m in moves]
    link = [m.link for m in moves]
    # A sum of quotients: the quotient of the sum may round to the other side of an integer.
    parent = [sum(a * g / moves[s].fan for (g, _), a in accesses[s].items()) for s in range(1, depth)] + [0]
    content: list[float] = [sum(found.values()) for found in accesses]
    for s in range(depth - 1):
        if not keep[s]:
            through = sum(a * g for (g, _), a in accesses[s + 1].items())
            factor = content[s] * moves[s + 1].fan / through
            accesses[s + 1] = {key: a * factor for key, a in accesses[s + 1].items()}
            content[s + 1], link[s + 1] = sum(accesses[s + 1].values()), 0
    peer = [link[s + 1] / analysis.instances[s] for s in range(depth - 1)] + [0]
    outermost = max(s for s in range(depth) if keep[s])
    result = []
    for s in range(depth):
        if not keep[s]:
            result.append((0, 0, 0))
        elif tensor != "Outputs":
            result.append((half_away(content[s] + peer[s]), math.trunc(parent[s] + peer[s]), 0))
        else:
            first = 0 if s == outermost else part[s]
            fills = half_away(parent[s] + peer[s] - first)
            if arch.dialect == "2023":
                fills = math.trunc(parent[s] + peer[s])
            result.append((half_away(content[s] + peer[s] - part[s]), fills, half_away(content[s])))
    return {"traffic": result, "signatures": accesses, "link": link}


def factorisations(bound: int, slots: int):
    """All ordered ways to write `bound` as a product of `slots` factors."""
    if slots == 0:
        if bound == 1:
            yield ()
        return
    for factor in range(1, bound + 1):
        if bound % factor == 0:
            for rest in factorisations(bound // factor, slots - 1):
                yield (factor, *rest)


class Space:
    """The mapspace of a layer under a constraint set (MODEL.md sections 11.1 to 11.3), by plain enumeration."""

    def __init__(self, arch: Any, layer: Any, constraints: str) -> None:
        """Raises `ValueError` where the fixed factors and upper bounds of a dimension do not allow its bound."""
        self.arch, self.shape, self.constraints = arch, layer.shape, constraints
        self.dims = DIMS if layer.shape in ("grouped", "matmul") else DIMS[:7]
        self.tiling = [self._without_others(level) for level in arch.tiling_levels(constraints)]
        self.rows = [list(self._factors(d, getattr(layer, d))) for d in self.dims]

    def _without_others(self, level: Any) -> Any:
        """A level's rules without the dimensions that the layer lacks; those that they lay on X stay there."""
        if level.split is None:
            return level._replace(permutation="".join(d for d in level.permutation if d in self.dims))
        on_x = [d for d in level.permutation[: level.split] if d in self.dims]
        unnamed = max(0, level.split - len(level.permutation))
        kept = "".join(d for d in level.permutation if d in self.dims)
        return level._replace(permutation=kept, split=min(len(on_x) + unnamed, len(self.dims)))

    def _factors(self, d: str, bound: int):
        """The factors {tiling level: factor} of one dimension."""
        fixed = {t: level.factors[d] or bound for t, level in enumerate(self.tiling) if d in level.factors}
        # Factors above the bound are ignored.
        fixed = {t: factor for t, factor in fixed.items() if factor <= bound}
        free = [t for t in range(len(self.tiling)) if t not in fixed]
        rest, remainder = divmod(bound, math.prod(fixed.values()))
        if remainder or (not free and rest > 1):
            raise ValueError(f"the factors of {d} do not divide {bound}")
        found = False
        for split in factorisations(rest, len(free)):
            factors = {**fixed, **dict(zip(free, split, strict=True))}
            if all(factors[t] <= level.max_factors.get(d, bound) for t, level in enumerate(self.tiling)):
                found = True
                yield factors
        if not found:
            raise ValueError(f"no factors of {d} within their upper bounds multiply to {bound}")

    def _choices(self, t: int, factors: dict[str, int]) -> tuple[str, str, list[int] | None]:
        """Fixed prefix and free rest of the dimensions of a tiling level, innermost first, and its splits. Loops of
        bound 1 are left out unless the split is given."""
        level = self.tiling[t]
        prefix = level.permutation
        innermost = t == 0 and not level.spatial
        one_dimensional = level.spatial and 1 in self.arch.fanout[level.level]
        if innermost or (one_dimensional and not prefix):
            prefix = self.dims
        free = "".join(d for d in self.dims if d not in prefix)
        if level.split is None:
            prefix, free = ("".join(d for d in dims if factors[d] > 1) for dims in (prefix, free))
        if not level.spatial:
            return prefix, free, None
        return prefix, free, [level.split] if level.split is not None else list(range(len(prefix + free) + 1))

    @property
    def nominal_size(self) -> int:
        """Factorisations, orders of all free dimensions, and splits, all multiplied."""
        total = math.prod(len(rows) for rows in self.rows)
        for t, level in enumerate(self.tiling):
            total *= math.factorial(len(self._choices(t, dict.fromkeys(self.dims, 2))[1]))
            total *= len(self.dims) + 1 if level.spatial and level.split is None else 1
        return total

    def _factorisations(self):
        """Factors {dimension: factor} of each tiling level, of every index factorisation."""
        for choice in itertools.product(*self.rows):
            yield [{d: row[t] for d, row in zip(self.dims, choice, strict=True)} for t in range(len(self.tiling))]

    def pruned_size(self, most: float = math.inf) -> float:
        """How many mappings `mappings` yields, or infinity if more than `most`."""
        if math.prod(len(rows) for rows in self.rows) > most:
            return math.inf
        total = 0
        for factors in self._factorisations():
            choices = [self._choices(t, of_level) for t, of_level in enumerate(factors)]
            total += math.prod(math.factorial(len(free)) * len(splits or [0]) for _, free, splits in choices)
            if total > most:
                return math.inf
        return total

    def mappings(self):
        """Every mapping of the pruned space as a record."""
        for factors in self._factorisations():
            for loops in itertools.product(*(self._loops(t, of_level) for t, of_level in enumerate(factors))):
                record = [
                    {
                        "level": s.name,
                        "temporal": [],
                        "spatial": [],
                        "keep": [t for t, k in zip(TENSORS, s.keep, strict=True) if k],
                    }
                    for s in self.arch.levels
                ]
                for level, found in zip(self.tiling, loops, strict=True):
                    record[level.level]["spatial" if level.spatial else "temporal"] = found
                yield record

    def underused(self, mapping: list[dict[str, Any]]) -> list[str]:
        """Levels of whose fan-outs a mapping uses less than the constraints demand; a share may be rounded up by an ulp."""
        found = []
        for rule in self.arch.constraint_set(self.constraints):
            (loops,) = (level["spatial"] for level in mapping if level["level"] == rule.level)
            most = math.prod(self.arch.fanout[self.arch.level_names.index(rule.level)])
            used = Fraction(math.prod(loop[1] for loop in loops), most)
            if rule.spatial and used < Fraction(rule.min_utilization) * (1 - Fraction(1, 10**12)):
                found.append(rule.level)
        return found

    def _loops(self, t: int, factors: dict[str, int]) -> list[list[Any]]:
        """Choices of order and split of one tiling level, as lists of loops, outer to inner."""
        prefix, free, splits = self._choices(t, factors)
        names = {"C": "K", "M": "N", "Q": "M", "G": "B"} if self.shape == "matmul" else {d: d for d in self.dims}
        found = []
        for order in itertools.permutations(free):
            dims = [*prefix, *order]
            if splits is None:
                found.append([[names[d], factors[d]] for d in reversed(dims) if d in names])
                continue
            for split in splits:
                loops = [(d, "X" if i < split else "Y") for i, d in enumerate(dims)]
                found.append([[names[d], factors[d], axis] for d, axis in reversed(loops) if d in names])
        return found


def pruned_mappings(arch: Any, layer: Any, constraints: str):
    """Every mapping of the pruned space as a record."""
    return Space(arch, layer, constraints).mappings()
