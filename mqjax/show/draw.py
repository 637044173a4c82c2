"""Loop nests and accelerators drawn: as text, and as figures."""

from __future__ import annotations

import io
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator, NullLocator

from mqjax.arch import FULL, Arch, Constraint
from mqjax.cost.packing import mac_cost
from mqjax.mapper.nextbest import RunnerUp
from mqjax.objectives import OBJECTIVES
from mqjax.show.explain import Explanation, LevelUse
from mqjax.show.ticks import label_logarithmic
from mqjax.types import TENSORS, BitWidths

TENSOR_COLORS: dict[str, str] = dict(zip(TENSORS, ("#0b5fa5", "#4c9f70", "#d9730d"), strict=True))
DARK, PALE = "#1d2430", "#eef1f5"


# --- Text ---------------------------------------------------------------------------------------------------------


def nest_text(found: Explanation) -> str:
    """The loop nest, outermost loop first; loops that run side by side are `parallel`."""
    lines, depth = [], 0
    for level in reversed(found.levels):
        kept = ", ".join(use.tensor for use in level.tensors if use.kept) or "nothing"
        lines.append(f"{'  ' * depth}{level.name}: keeps {kept}")
        for dim, bound in level.temporal:
            depth += 1
            lines.append(f"{'  ' * depth}for {dim} in 0..{bound - 1}")
        for dim, bound, axis in level.spatial:
            depth += 1
            lines.append(f"{'  ' * depth}parallel {dim} in 0..{bound - 1} on {axis}")
        depth += 1
    return "\n".join([*lines, f"{'  ' * depth}{found.mac}"])


def verdict_text(found: Explanation) -> str:
    """Costs and what bounds them or, where the mapping does not fit, why."""
    if not found.valid:
        return "\n".join(["the mapping does not fit:", *(f"  {problem}" for problem in found.problems)])
    pace = f"the {found.macs_used:,} MACs in use of {found.macs:,} need {found.compute_cycles:,}"
    return (
        f"energy {found.energy_pj:.6g} pJ, {found.cycles:,} cycles, EDP {found.edp:.6g} pJ*cycles\n"
        f"cycles are bound by {found.bound}; {pace}"
    )


def runner_up_text(second: RunnerUp) -> str:
    """What the next-best mapping loses."""
    unit = OBJECTIVES[second.metric].unit
    if second.value is None and not second.covered:
        return f"no mapping near this one has another {second.metric}"
    if second.value is None:
        return f"all {second.ties:,} distinct mappings that fit have the same {second.metric}"
    ties = f"{second.ties:,} distinct mappings share the least {second.metric}; " if (second.ties or 0) > 1 else ""
    loss = second.loss or 0.0
    lost = f"{loss:+.2%}" if loss >= 1e-4 else f"{100 * loss:+.1g}%"
    told = f"{ties}the next-best mapping has {second.value:.6g} {unit}, {lost}"
    return told if second.covered else f"{told}, or less: it was searched for around this one, its space not compared"


LEVEL_HEADINGS = (
    "level",
    "instances",
    "words",
    "capacity",
    "used",
    "read rate",
    "limit",
    "write rate",
    "limit",
    "cycles",
)
"""Of `level_rows`; rates and limits are in words per cycle and instance."""


def level_rows(found: Explanation) -> list[tuple[str, ...]]:
    """A row for each level, outermost first: what is in use, and what bounds its pace."""

    def row(level: LevelUse) -> tuple[str, ...]:
        share = level.utilization
        return (
            level.name,
            f"{level.instances:,} of {level.hardware_instances:,}",
            f"{level.words:,}",
            _or("unlimited", level.capacity_words, ","),
            "" if share is None else f"{share:.1%}",
            _or("", level.read_rate, ".3g"),
            _or("unlimited", level.read_limit, "g"),
            _or("", level.write_rate, ".3g"),
            _or("unlimited", level.write_limit, "g"),
            _or("", level.cycles, ","),
        )

    return [row(level) for level in reversed(found.levels)]


TENSOR_HEADINGS = ("level", "tensor", "tile", "words", "reads", "fills", "updates", "energy (pJ)", "share")
"""Of `tensor_rows`; counts are per instance and in packed words."""


def tensor_rows(found: Explanation) -> list[tuple[str, ...]]:
    """A row for each tensor that a level keeps, outermost first, and one for the MACs."""

    def share(energy: float | None) -> str:
        return "" if energy is None or not found.energy_pj else f"{energy / found.energy_pj:.1%}"

    rows = []
    for level in reversed(found.levels):
        for use in level.tensors:
            if use.kept:
                counts = [_or("", count, ",") for count in (use.reads, use.fills, use.updates)]
                tile = (f"{use.tile_elements:,}", f"{use.tile_words:,}")
                energy = _or("", use.energy_pj, ".6g")
                rows.append((level.name, use.tensor, *tile, *counts, energy, share(use.energy_pj)))
    return [*rows, (found.mac, "", *[""] * 5, _or("", found.mac_pj, ".6g"), share(found.mac_pj))]


DIFFERENCE_HEADINGS = ("level", "tensor", "what", "first", "second", "change")


def difference_rows(first: Explanation, second: Explanation) -> list[tuple[str, ...]]:
    """What differs between two mappings on one accelerator: totals, then levels and tensors, outermost first."""
    pairs: list[tuple[str, str, str, float | None, float | None]] = [
        ("total", "", "energy (pJ)", *_costs_of_both(first, second, "energy")),
        ("total", "", "cycles", *_costs_of_both(first, second, "delay")),
        ("total", "", "EDP (pJ*cycles)", *_costs_of_both(first, second, "edp")),
    ]
    for a, b in zip(reversed(first.levels), reversed(second.levels), strict=True):
        pairs += [
            (a.name, "", "instances", a.instances, b.instances),
            (a.name, "", "words", a.words, b.words),
            (a.name, "", "cycles", a.cycles, b.cycles),
        ]
        for one, other in zip(a.tensors, b.tensors, strict=True):
            pairs += [
                (a.name, one.tensor, "tile", one.tile_elements, other.tile_elements),
                (a.name, one.tensor, "reads", one.reads, other.reads),
                (a.name, one.tensor, "fills", one.fills, other.fills),
                (a.name, one.tensor, "updates", one.updates, other.updates),
                (a.name, one.tensor, "energy (pJ)", one.energy_pj, other.energy_pj),
            ]
    return [(*names, _number(a), _number(b), _change(a, b)) for *names, a, b in pairs if a != b]


def _costs_of_both(first: Explanation, second: Explanation, metric: str) -> tuple[float | None, float | None]:
    return (first.metric(metric) if first.valid else None), (second.metric(metric) if second.valid else None)


def _number(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _change(a: float | None, b: float | None) -> str:
    return f"{b / a - 1:+.1%}" if a and b is not None else ""


def _or(absent: str, value: float | None, form: str) -> str:
    return absent if value is None else format(value, form)


ARCH_HEADINGS = (
    "level", "mesh", "children", "keeps", "capacity", "word bits", "block", "read/write rate", "read/fill/update (pJ)", "area (um^2)",
)  # fmt: skip
"""Of `arch_rows`; capacities and blocks in words, rates in words per cycle and instance, energies per block."""


def arch_rows(arch: Arch) -> list[tuple[str, ...]]:
    """A row for each level, outermost first, and one for the MACs."""
    rows = []
    for level, fanout in reversed(list(zip(arch.levels, arch.fanout, strict=True))):
        rates = [_or("unlimited", rate, "g") for rate in (level.read_bandwidth, level.write_bandwidth)]
        rows.append(
            (
                level.name,
                "x".join(map(str, level.mesh)),
                "x".join(map(str, fanout)),
                ", ".join(_kept_tensors(level.keep)) or "nothing",
                _or("unlimited", level.capacity_words, ","),
                str(level.word_bits),
                str(level.block_words),
                rates[0] if rates[0] == rates[1] else " / ".join(rates),
                " / ".join(f"{energy:g}" for energy in (level.read_pj, level.fill_pj, level.update_pj)),
                f"{level.area_um2:g}",
            )
        )
    mac = arch.mac
    mesh = "x".join(map(str, mac.mesh))
    return [
        *rows,
        (mac.name, mesh, "", "", "", "", "", "", f"{_operation_energy(arch)} per operation", f"{mac.area_um2:g}"),
    ]


def _operation_energy(arch: Arch) -> str:
    """Energy of an operation, from the narrowest operands to unpacked ones where it depends on their widths."""
    if isinstance(arch.mac.energy_pj, float | int):
        return f"{arch.mac.energy_pj:g}"
    least, most = (mac_cost(arch, bits).energy_pj for bits in (BitWidths(1, 1, 1), BitWidths()))
    return f"{least:g} at 1 bit to {most:g}"


def constraint_lines(arch: Arch) -> Iterator[str]:
    """A line for each constraint, those of the hardware first."""
    for group, rules in (("arch", arch.arch_constraints), ("paper", arch.paper_constraints)):
        for rule in rules:
            yield f"{group}: {_rule_words(rule)}"


def _rule_words(rule: Constraint) -> str:
    factors = " ".join(f"{dim}={'full' if factor == FULL else factor}" for dim, factor in rule.factors)
    most = " ".join(f"{dim}<={bound}" for dim, bound in rule.max_factors)
    order = f"order {rule.permutation} (innermost first)" if rule.permutation else ""
    split = f"the first {rule.split} on X" if rule.split is not None else ""
    used = f"at least {rule.min_utilization:.0%} in use" if rule.min_utilization else ""
    kind = "spatial" if rule.spatial else "temporal"
    return f"{rule.level}, {kind} loops: {'; '.join(filter(None, (factors, most, order, split, used)))}"


def _kept_tensors(keep: tuple[bool, ...]) -> list[str]:
    return [tensor for tensor, kept in zip(TENSORS, keep, strict=True) if kept]


# --- Figures ------------------------------------------------------------------------------------------------------


def draw_explanation(found: Explanation, form: str, other: Explanation | None = None) -> bytes:
    """The loop nest by level and, beside it, the energy of each level by tensor; form: "png" or "svg". other: a second
    mapping, drawn beside the first on the same scale."""
    shown = [found] if other is None else [found, other]
    title = f"{found.layer.name} on {found.arch} at {found.bits}"
    titles = [title] if other is None else [f"{title}, first mapping", "second mapping"]
    figure, panels = _panels(len(found.levels) + 1, titles, (3, 2))
    dearest = max((level.energy_pj or 0.0 for one in shown for level in one.levels), default=0.0)
    scale, label = OBJECTIVES["energy"].scaled(max(dearest, *(one.mac_pj or 0.0 for one in shown)))
    for (nest, bars), one in zip(panels, shown, strict=True):
        _draw_nest(nest, bars, one, scale)
        bars.set_xlabel(label if one.valid else "the mapping does not fit")
        bars.xaxis.set_major_locator(MaxNLocator(5) if any(one.valid for one in shown) else NullLocator())
    return _rendered(figure, form)


def _draw_nest(nest: Axes, bars: Axes, found: Explanation, scale: float) -> None:
    """A mapping's loops in boxes, and bars of its energies in units of `scale` pJ."""
    levels = list(reversed(found.levels))
    for row, level in enumerate(levels):
        loops = [f"for {dim} {bound}" for dim, bound in level.temporal]
        loops += [f"parallel {dim} {bound} ({axis})" for dim, bound, axis in level.spatial]
        share = "" if level.utilization is None else f"  {level.words:,} of {level.capacity_words:,} words"
        title = f"{level.name}{share}{'  DOES NOT FIT' if level.problems else ''}"
        kept = [use.tensor for use in level.tensors if use.kept]
        _box(nest, row, title, ",  ".join(loops) or "no loops", kept, alarm=bool(level.problems))
    _box(nest, len(levels), f"{found.mac}  {found.macs_used:,} of {found.macs:,} in use", "", [])
    for row, level in enumerate(levels):
        left = 0.0
        for use in level.tensors:
            energy = (use.energy_pj or 0.0) / scale
            bars.barh(row, energy, left=left, color=TENSOR_COLORS[use.tensor], height=0.6)
            left += energy
    bars.barh(len(levels), (found.mac_pj or 0.0) / scale, color="#8a93a3", height=0.6)


def draw_arch(arch: Arch, form: str) -> bytes:
    """The hierarchy of an accelerator and, beside it, its energies per word and per operation; form: "png" or "svg"."""
    levels = list(reversed(list(zip(arch.levels, arch.fanout, strict=True))))
    figure, ((boxes, bars),) = _panels(len(levels) + 1, [arch.name], (3, 1.6))
    for row, (level, fanout) in enumerate(levels):
        size = (
            "unlimited" if level.capacity_words is None else f"{level.capacity_words:,} words of {level.word_bits} bits"
        )
        below = "" if fanout == (1, 1) else f"each feeds {fanout[0]} x {fanout[1]}"
        _box(boxes, row, f"{level.name}  {level.mesh[0]} x {level.mesh[1]}  {size}", below, _kept_tensors(level.keep))
        bars.barh(row, level.read_pj / level.block_words, color=DARK, height=0.6)
    _box(boxes, len(levels), f"{arch.mac.name}  {arch.mac.mesh[0]} x {arch.mac.mesh[1]}", "", [])
    bars.barh(len(levels), mac_cost(arch, BitWidths()).energy_pj, color="#8a93a3", height=0.6)
    bars.set_xlabel("energy (pJ) of a word read, or of an operation")
    if any(level.read_pj for level, _ in levels):
        bars.set_xscale("log")
        label_logarithmic(bars.xaxis)
    return _rendered(figure, form)


def _panels(rows: int, titles: list[str], widths: tuple[float, float]) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with a panel of boxes and one of bars for each title; the bars share their scale."""
    figure = Figure(figsize=(11 * len(titles), 0.85 * rows + 1.0), layout="constrained")
    found = figure.subplots(1, 2 * len(titles), sharey=True, width_ratios=widths * len(titles))
    panels = list(zip(found[::2], found[1::2], strict=True))
    for (boxes, bars), title in zip(panels, titles, strict=True):
        boxes.set_title(title, loc="left")
        boxes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
        boxes.axis("off")
        for tensor, color in TENSOR_COLORS.items():
            bars.barh(0, 0, color=color, label=tensor)
        if bars is not panels[0][1]:
            bars.sharex(panels[0][1])
        bars.tick_params(left=False, labelleft=False)
        for side in ("top", "right", "left"):
            bars.spines[side].set_visible(False)
    handles = panels[0][1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", ncols=len(TENSORS), frameon=False)
    return figure, panels


def _box(axes: Axes, row: int, title: str, text: str, kept: list[str], *, alarm: bool = False) -> None:
    edge = "#c0392b" if alarm else "#8a93a3"
    style = "round,pad=0,rounding_size=0.01"
    axes.add_patch(FancyBboxPatch((0.005, row - 0.4), 0.985, 0.8, boxstyle=style, fc=PALE, ec=edge, mutation_aspect=10))
    axes.text(0.02, row - (0.12 if text else -0.08), title, fontsize=9.5, color=DARK, weight="bold")
    axes.text(0.02, row + 0.24, text, fontsize=9, color=DARK, family="monospace")
    for number, tensor in enumerate(kept):
        at = 0.975 - 0.035 * (len(kept) - 1 - number)
        axes.text(at, row - 0.12, tensor[0], fontsize=10, color=TENSOR_COLORS[tensor], weight="bold", ha="right")


def _rendered(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    # Without a date and with fixed ids, the same mapping gives the same file.
    metadata = {"Software": None} if form == "png" else {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "mqjax"}):
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()
