"""Random accelerators with layers and widths, small enough that `oracle` can enumerate their mapspaces.

Drawn by `choice` and `randint` of a source alone: `random.Random`, or hypothesis's `randoms()`, which can then shrink
what it draws. Options stand from plain to nasty, so that shrinking leads to plain ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import oracle
from accelerator_files import to_yaml
from mqjax.arch import FULL, Arch, Constraint, Level, Mac, WidthFormula, WidthTable
from mqjax.projection import LOOPS
from mqjax.types import TENSORS, WIDTHS, BitWidths, Layer

DEPTHS = (2, 3, 3, 4, 4, 5, 1)
MESHES = ((1, 1), (1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (1, 4), (2, 2), (4, 1), (2, 3), (3, 2), (5, 3), (4, 7))
WORDS = (16, 16, 8, 24, 32, 4, 6, 12, 64, 13)
BLOCKS = (1, 1, 2, 4, 3)
CAPACITIES = (None, None, 64, 16, 200, 7, 3, 24, 1)
ENERGIES = (1.0, 10.0, 0.5, 2.25, 0.0, 0.1, 67.9377, 200.0)
BANDWIDTHS = (None, 1.0, 2.0, 0.5, 0.53, 8.0, 0.1)
PACES = (2.0, 0.5, 4.0, 0.0625, 0.75, 3.0, 0.1)
"""Operations a cycle, or cycles an operation."""

PATTERNS = ("any", "any", "RP", "SQ", "RPSQ", "CM")
"""What the layer's first bounds above 1 are: a kernel and an output extent of one rank bring halos and forwarding."""

FAMILIES = (("cnn", "cnn", "cnn", "depthwise"),) * 2 + (("grouped", "grouped", "matmul"),)
"""Shapes of a case's layers, which share compiled programs."""

WIDTHS_TRIED = (*WIDTHS, 1, 16, 12)


class Source(Protocol):
    """Where random choices come from."""

    def choice(self, options: Sequence[Any]) -> Any: ...

    def randint(self, low: int, high: int) -> int: ...


class Case(NamedTuple):
    """An accelerator, the constraint set to look at, some layers, and some widths."""

    arch: Arch
    constraints: str
    layers: tuple[Layer, ...]
    bits: tuple[BitWidths, ...]

    def __str__(self) -> str:
        layers = (" ".join(f"{key}={n}" for key, n in x.dims.items() if n > 1) or "C=1" for x in self.layers)
        shapes = (x.shape for x in self.layers)
        lines = [f"layer {dims} ({shape})" for dims, shape in zip(layers, shapes, strict=True)]
        return "\n".join(
            [
                to_yaml(self.arch).rstrip(),
                f"dialect {self.arch.dialect}, constraints {self.constraints}",
                *lines,
                f"widths {', '.join(map(str, self.bits))}",
            ]
        )


def draw(rng: Source, *, size: int = 2000, layers: int = 1, widths: int = 3, depth: int = max(DEPTHS)) -> Case:
    """A case of at most `depth` levels whose layers have at most `size` mappings in the pruned space each."""
    arch = random_arch(rng, depth)
    constraints = rng.choice(("paper", "paper", "paper", "arch", "none"))
    shapes = rng.choice(FAMILIES)
    chosen = tuple(_layer(rng, arch, constraints, size, shapes) for _ in range(layers))
    bits = dict.fromkeys([BitWidths(), *(_widths(rng, arch) for _ in range(widths))])
    return Case(arch, constraints, chosen, tuple(bits))


# --- Accelerators ----------------------------------------------------------------------------------------------------


def random_arch(rng: Source, most: int) -> Arch:
    depth = rng.choice([depth for depth in DEPTHS if depth <= most])
    fanouts = [rng.choice(MESHES) for _ in range(depth)]
    # At most this many loops over instances, in the outermost level also of a mesh of its own.
    mesh = rng.choice(((1, 1), (1, 1), (1, 1), (2, 1), (1, 3), (2, 2)))
    meshes = [mesh]
    for x, y in reversed(fanouts):
        # Two meshes of more than one instance are enough for a small space.
        if sum(a != b for a, b in zip(meshes, meshes[1:], strict=False)) >= 2:
            x, y = 1, 1
        mesh = (mesh[0] * x, mesh[1] * y)
        meshes.append(mesh)
    meshes.reverse()
    levels = tuple(_level(rng, s, meshes[s + 1], outermost=s == depth - 1) for s in range(depth))
    arch = Arch("random", _mac(rng, meshes[0], levels), levels, dialect=rng.choice(("2024", "2024", "2023")))
    rules = _rules(rng, arch)
    at = rng.randint(0, len(rules))
    return dataclasses.replace(arch, arch_constraints=tuple(rules[:at]), paper_constraints=tuple(rules[at:]))


def _mac(rng: Source, mesh: tuple[int, int], levels: Sequence[Level]) -> Mac:
    """One energy and one operation a cycle, or either by the widths of the operands."""
    words = [next(level.word_bits for level in levels if level.keep[t]) for t in (1, 0)]
    energy = rng.choice(ENERGIES)
    if rng.choice((False, False, True)):
        energy = _by_width(rng, words, ENERGIES)
    kind = rng.choice(("", "", "", "operations_per_cycle", "cycles_per_operation"))
    pace = {kind: rng.choice((rng.choice(PACES), _by_width(rng, words, PACES)))} if kind else {}
    return Mac("mac", mesh, energy, 1.0, **pace)


def _by_width(rng: Source, words: Sequence[int], numbers: Sequence[float]) -> WidthTable | WidthFormula:
    if rng.choice((False, True)):
        terms = [rng.choice((0.0, *numbers)) for _ in range(3)]
        return WidthFormula(rng.choice([x for x in numbers if x]), *terms)
    modes = [sorted({widest, *(rng.randint(1, widest) for _ in range(rng.randint(0, 3)))}) for widest in words]
    rows = tuple(tuple(rng.choice(numbers) for _ in modes[1]) for _ in modes[0])
    return WidthTable(tuple(modes[0]), tuple(modes[1]), rows)


def _level(rng: Source, s: int, mesh: tuple[int, int], *, outermost: bool) -> Level:
    instances = mesh[0] * mesh[1]
    read, fill, update = (rng.choice(ENERGIES) for _ in range(3))
    alike = rng.choice((True, False))
    limited = rng.choice((False, False, True))
    return Level(
        name=f"L{s}",
        mesh=mesh,
        capacity_words=None if outermost and rng.choice((True, True, False)) else rng.choice(CAPACITIES),
        word_bits=rng.choice(WORDS),
        block_words=rng.choice(BLOCKS),
        cluster=rng.choice([n for n in range(1, instances + 1) if instances % n == 0]),
        read_bandwidth=rng.choice(BANDWIDTHS) if limited else None,
        write_bandwidth=rng.choice(BANDWIDTHS) if limited else None,
        read_pj=read,
        fill_pj=read if alike else fill,
        update_pj=read if alike else update,
        area_um2=0.0,
        keep=(True, True, True) if outermost else _three(rng.choice((True, False)) for _ in TENSORS),
    )


def _three(values: Iterator[bool]) -> tuple[bool, bool, bool]:
    a, b, c = values
    return a, b, c


def _rules(rng: Source, arch: Arch) -> list[Constraint]:
    """Constraints from none to full, at most one for the loops of a tiling level."""
    strictness = rng.randint(0, 4)
    rules = []
    for level in arch.tiling_levels("none"):
        if rng.randint(1, 4) > strictness:
            continue
        factors = [(d, _factor(rng)) for d in LOOPS if rng.randint(1, 5) <= strictness]
        fixed = dict(factors)
        most = [(d, rng.choice((1, 2, 2, 3, 4))) for d in LOOPS if d not in fixed and rng.randint(1, 8) == 1]
        split = rng.choice((None, None, 8, 0, rng.randint(0, 8))) if level.spatial else None
        name = arch.levels[level.level].name
        # With a given split loops of bound 1 are ordered, too, so that many free dimensions make any space large.
        order = _permutation(rng, strictness, least=0 if split is None else 4)
        used = rng.choice((0.0,) * 7 + (0.25, 0.5, 1.0)) if level.spatial else 0.0
        rules.append(Constraint(name, level.spatial, tuple(factors), order, split, tuple(most), used))
    return rules


def _factor(rng: Source) -> int:
    # Beside the usual 1: the whole bound, a factor that few bounds have, and one that exceeds them.
    return rng.choice((1,) * 12 + (FULL, FULL, 2, 3, 11))


def _permutation(rng: Source, strictness: int, least: int) -> str:
    length = rng.choice((0, 8, 2, rng.randint(0, 8))) if strictness < 4 else rng.choice((8, 8, 5))
    rest, order = list(LOOPS), ""
    while len(order) < max(length, least):
        order += rest.pop(rng.randint(0, len(rest) - 1))
    return order


# --- Layers and widths -----------------------------------------------------------------------------------------------


def _layer(rng: Source, arch: Arch, constraints: str, size: int, shapes: Sequence[str]) -> Layer:
    """A layer grown from all ones for as long as its space remains small and meets the constraints."""
    steps = {key: rng.choice((1, 1, 1, 2, 3)) for key in ("Wstride", "Hstride", "Wdilation", "Hdilation")}
    shape = rng.choice(shapes)
    layer = Layer(**(steps if shape != "matmul" else {}), shape=shape)
    dims = [d for d in layer.loops if d not in layer.projection.unit]
    pattern = rng.choice(PATTERNS)
    first = [d for d in pattern if d in dims] if pattern != "any" else []
    for d in [*first, *(rng.choice(dims) for _ in range(6))]:
        times = rng.choice((2, 2, 3, 3, 4, 5, 7, 6, 13))
        # A smaller factor may still do where the one drawn makes the space too large or breaks a constraint.
        for factor in (times, 2):
            grown = dataclasses.replace(layer, **{d: getattr(layer, d) * factor})
            if grown.macs <= 4096 and _is_small(arch, grown, constraints, size):
                layer = grown
                break
    return layer


def _is_small(arch: Arch, layer: Layer, constraints: str, size: int) -> bool:
    try:
        return oracle.Space(arch, layer, constraints).pruned_size(size) <= size
    except ValueError:
        return False


def _widths(rng: Source, arch: Arch) -> BitWidths:
    """Widths that mostly fit the words of all levels; each may also be unpacked."""
    result = []
    for tensor in range(len(TENSORS)):
        word = min(level.word_bits for level in arch.levels if level.keep[tensor])
        fitting = [width for width in WIDTHS_TRIED if width <= word]
        result.append(rng.choice((*fitting, *fitting, *fitting, None, word)))
    weights, inputs, outputs = result
    return BitWidths(inputs, weights, outputs)


# --- Simpler cases ---------------------------------------------------------------------------------------------------


def simpler(case: Case) -> Iterator[Case]:
    """Cases that are a little simpler, the simplest first; the caller keeps those that still fail."""
    for layer in case.layers if len(case.layers) > 1 else ():
        yield case._replace(layers=(layer,))
    for bits in case.bits if len(case.bits) > 1 else ():
        yield case._replace(bits=(bits,))
    for arch in _simpler_archs(case.arch):
        yield case._replace(arch=arch)
    for i, layer in enumerate(case.layers):
        for other in _simpler_layers(layer):
            yield case._replace(layers=(*case.layers[:i], other, *case.layers[i + 1 :]))


def _simpler_layers(layer: Layer) -> Iterator[Layer]:
    fields = layer.projection.keys
    for key, n in layer.dims.items():
        for smaller in dict.fromkeys((1, *(m for m in range(2, n) if n % m == 0))):
            if smaller < n:
                yield dataclasses.replace(layer, **{fields[key]: smaller})
    if layer.shape != "cnn":
        yield dataclasses.replace(layer, shape="cnn", G=1)


def _simpler_archs(arch: Arch) -> Iterator[Arch]:
    for s, level in enumerate(arch.levels[:-1]):
        rules = [[r for r in x if r.level != level.name] for x in (arch.arch_constraints, arch.paper_constraints)]
        levels = (*arch.levels[:s], *arch.levels[s + 1 :])
        # Without the level its fan-out moves to the next one, or vanishes with the instances inside.
        yield _with_rules(dataclasses.replace(arch, levels=levels), *rules)
        if arch.fanout[s] != (1, 1) and s == 0:
            yield _with_rules(
                dataclasses.replace(arch, mac=dataclasses.replace(arch.mac, mesh=level.mesh)),
                *([r for r in x if not (r.spatial and r.level == level.name)] for x in rules),
            )
    sets = (arch.arch_constraints, arch.paper_constraints)
    for which, rules in enumerate(sets):
        for i, rule in enumerate(rules):
            for other in _simpler_rules(rule):
                changed = [list(x) for x in sets]
                changed[which][i : i + 1] = other
                yield _with_rules(arch, *changed)
    for s, level in enumerate(arch.levels):
        plain = {
            "capacity_words": None,
            "word_bits": 16,
            "block_words": 1,
            "cluster": 1,
            "read_bandwidth": None,
            "write_bandwidth": None,
            "read_pj": 1.0,
            "fill_pj": level.read_pj,
            "update_pj": level.read_pj,
        }
        for key, value in plain.items():
            if getattr(level, key) != value:
                other = dataclasses.replace(level, **{key: value})
                yield dataclasses.replace(arch, levels=(*arch.levels[:s], other, *arch.levels[s + 1 :]))
    plain_mac = {"energy_pj": 1.0, "operations_per_cycle": 1.0, "cycles_per_operation": None}
    for key, value in plain_mac.items():
        if getattr(arch.mac, key) != value:
            yield dataclasses.replace(arch, mac=dataclasses.replace(arch.mac, **{key: value}))
    if arch.dialect != "2024":
        yield dataclasses.replace(arch, dialect="2024")


def _simpler_rules(rule: Constraint) -> Iterator[list[Constraint]]:
    yield []
    if rule.permutation:
        yield [dataclasses.replace(rule, permutation="")]
    if rule.split is not None:
        yield [dataclasses.replace(rule, split=None)]
    for i in range(len(rule.factors)):
        yield [dataclasses.replace(rule, factors=(*rule.factors[:i], *rule.factors[i + 1 :]))]
    if rule.min_utilization:
        yield [dataclasses.replace(rule, min_utilization=0.0)]
    for i in range(len(rule.max_factors)):
        yield [dataclasses.replace(rule, max_factors=(*rule.max_factors[:i], *rule.max_factors[i + 1 :]))]


def _with_rules(arch: Arch, arch_rules: Sequence[Constraint], paper_rules: Sequence[Constraint]) -> Arch:
    """The accelerator with these constraints, but for those of loops that it does not have."""
    has = {(arch.levels[level.level].name, level.spatial) for level in arch.tiling_levels("none")}
    kept = [tuple(r for r in rules if (r.level, r.spatial) in has) for rules in (arch_rules, paper_rules)]
    return dataclasses.replace(arch, arch_constraints=kept[0], paper_constraints=kept[1])
