"""Quantization opens mappings: how many are valid at which widths, and what the best of them needs, layer by layer.

    python experiments/mappings.py [--quick] [--out experiments/results/mappings]

AlexNet on Eyeriss, as published, and both MobileNets (224x224) on both accelerators. Whole spaces: counts are exact, optima
proven. For every layer and width also what the best mapping at one operand a word needs when its operands are packed, and
whether the best mapping at that width would fit unpacked: so what packing saves is told from what new mappings add.
AlexNet's counts stand beside those of the authors' search logs (`alexnet_counts` says what their lines are).
Expected: four minutes on 2 cores, one once the tables are cached. At 4 bits 3 to 138 % more mappings are valid;
keeping the mapping that is best at 16 bits costs up to 14 % there. --quick: one layer of AlexNet, two of a small network.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from alexnet_counts import BITS, LAYERS, PUBLISHED, factorisations, fits, runs
from matplotlib.figure import Figure

from common import (
    ARCHS,
    NETWORKS,
    TITLE,
    Row,
    Tables,
    change,
    markdown,
    only,
    pair_name,
    pairs_of,
    panels_of,
    run,
    source,
    span,
    values,
    where,
)
from mqjax import BitWidths, Layer, Mapspace, cost_table, evaluate, load_arch
from mqjax.arch import Arch
from mqjax.io.files import cache_folder
from mqjax.mapper.optima import Optima
from mqjax.mapper.optimum import solve
from mqjax.mapper.table import entry_of
from mqjax.mapspace.mapping import mapped_layer
from mqjax.show.figures import BLUE, GREY, LEVEL_COLORS, ORANGE, PURPLE

WIDTHS = {
    "16": BitWidths(),
    **{str(b): BitWidths(b, b, b) for b in range(8, 1, -1)},
    "8/4": BitWidths(8, 4, 8),
    "8/2": BitWidths(8, 2, 8),
}
"""Uniform widths, and weights narrower than inputs and outputs; 16 is one operand a word."""
ALEXNET = dict(sorted({**LAYERS, 4: Layer(C=384, M=384, R=3, S=3, P=13, Q=13, name="alexnet_layer4")}.items()))
COLORS = {"8": GREY, "4": BLUE, "2": ORANGE}


def measure(args: argparse.Namespace) -> Tables:
    eyeriss = load_arch("eyeriss")
    alexnet: list[Row] = []
    logs: list[Row] = []
    for number, layer in list(ALEXNET.items())[: 1 if args.quick else None]:
        table = cost_table(eyeriss, [layer], cache=cache_folder())
        alexnet += [{"network": "alexnet", "arch": "eyeriss", **row} for row in _rows(eyeriss, layer, table.tables[0])]
        if number in PUBLISHED:
            logs += _logs(eyeriss, number)
        print(layer.name, file=sys.stderr, flush=True)
    networks: list[Row] = []
    for network in ("mobilenetv1",) if args.quick else NETWORKS:
        layers = source(network, args.quick).layers()[: 2 if args.quick else None]
        for name in ("eyeriss",) if args.quick else ARCHS:
            arch = load_arch(name)
            table = cost_table(arch, layers, cache=cache_folder())
            for layer, optima in zip(table.unique, table.tables, strict=True):
                networks += [{"network": network, "arch": name, **row} for row in _rows(arch, layer, optima)]
            print(network, name, file=sys.stderr, flush=True)
    return {"alexnet": alexnet, "logs": logs, "networks": networks}


def _rows(arch: Arch, layer: Layer, optima: Optima) -> list[Row]:
    """Counts and optima of one layer at all of `WIDTHS`."""
    assert optima.valid is not None and optima.covered
    unpacked = optima.mappings[optima.index[0, -1]]
    rows = []
    for name, bits in WIDTHS.items():
        entry = entry_of(bits)
        best = optima.mappings[optima.index[0, entry]]
        kept = evaluate(arch, mapped_layer(layer, unpacked), bits, [unpacked])
        rows.append(
            {
                "layer": layer.name,
                "bits": name,
                "nominal_size": optima.nominal_size,
                "pruned_size": optima.pruned_size,
                "valid": int(optima.valid[entry]),
                "least_energy_pj": float(optima.value("energy")[entry]),
                "best_edp_pj_cycles": float(optima.value("edp")[entry]),
                "unpacked_mapping_pj": float(kept.energy_pj[0]),
                "fits_unpacked": bool(evaluate(arch, mapped_layer(layer, best), BitWidths(), [best]).valid[0]),
            }
        )
    return rows


def _logs(eyeriss: Arch, number: int) -> list[Row]:
    """Valid mappings of one layer of AlexNet, and the lines that the authors' log of it has."""
    layer = LAYERS[number]
    space = Mapspace(eyeriss, layer)
    factors = factorisations(space)
    innermost = factors[layer.loops.index("M"), 0]
    valid = solve(space, BITS).valid
    assert valid is not None
    rows = []
    for bits, count, lines in zip(BITS, valid, PUBLISHED[number], strict=True):
        fit = fits(space, factors, bits)
        assert fit.sum() == count
        rows.append(
            {
                "layer": layer.name,
                "bits": str(bits),
                "valid": int(count),
                "runs": runs(fit, innermost),
                "lines_published": lines,
            }
        )
    return rows


def draw(tables: Tables) -> dict[str, Figure]:
    return {"alexnet": _draw_alexnet(tables["alexnet"]), "networks": _draw_networks(tables["networks"])}


def _relative(rows: list[Row], layer: str, key: str) -> dict[str, float]:
    """A column of one layer by bits, relative to that at 16 bits."""
    base = only(rows, layer=layer, bits=16)[key]
    return {row["bits"]: row[key] / base for row in where(rows, layer=layer)}


def _draw_alexnet(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    counts, energies = figure.subplots(1, 2)
    bits = [bits for bits in values(rows, "bits") if isinstance(bits, int)]
    layers, colors = values(rows, "layer"), (BLUE, ORANGE, LEVEL_COLORS[6], PURPLE, LEVEL_COLORS[7])
    for layer, color in zip(layers, colors, strict=False):
        label = f"layer {layer[-1]}"
        valid = _relative(rows, layer, "valid")
        of_layer = [only(rows, layer=layer, bits=b) for b in bits]
        extra = [100 * (row["unpacked_mapping_pj"] / row["least_energy_pj"] - 1) for row in of_layer]
        at = range(len(bits))
        counts.plot(at, [valid[b] for b in bits], "o-", ms=4, color=color, label=label)
        energies.plot(at, extra, "o-", ms=4, color=color, label=label)
    grown = span((_relative(rows, layer, "valid")[2] - 1 for layer in layers), 0)
    counts.set_title(f"AlexNet on Eyeriss: at 2 bits {grown} more fit", **TITLE)
    energies.set_title("What new mappings add to packing", **TITLE)
    counts.set_ylabel("valid mappings, 16 bits = 1")
    energies.set(ylabel="energy of the best 16-bit mapping\nabove that of the best mapping (%)", ylim=(0, None))
    for axes in (counts, energies):
        axes.set_xticks(range(len(bits)), list(map(str, bits)))
        axes.set_xlabel("bits of all operands")
        axes.grid(color="#eceff3")
        axes.legend(frameon=False, fontsize=8.5)
    return figure


def _draw_networks(rows: list[Row]) -> Figure:
    pairs = pairs_of(rows)
    figure, panels = panels_of(pairs, (10.5, 3.0))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        of_pair = where(rows, network=network, arch=arch)
        layers = values(of_pair, "layer")
        for number, (bits, color) in enumerate(COLORS.items()):
            more = [100 * (_relative(of_pair, layer, "valid")[int(bits)] - 1) for layer in layers]
            axes.bar(np.arange(len(layers)) + 0.27 * (number - 1), more, 0.26, color=color, label=f"{bits} bits")
        axes.set_title(f"{pair_name(network, arch)}: {len(layers)} different layers", **TITLE)
        axes.set_xticks(
            range(len(layers)), [name.partition("_")[2] or name for name in layers], rotation=90, fontsize=6.5
        )
        axes.set(ylabel="more valid mappings\nthan at 16 bits (%)", xlim=(-0.7, len(layers) - 0.3))
        axes.grid(color="#eceff3", axis="y")
    panels[min(1, len(pairs) - 1)].legend(frameon=False, fontsize=8.5, loc="upper right")
    return figure


def describe(tables: Tables) -> str:
    alexnet, networks, logs = tables["alexnet"], tables["networks"], tables["logs"]
    bits = [8, 4, 2]
    body = []
    for layer in values(alexnet, "layer"):
        first = only(alexnet, layer=layer, bits=16)
        more = [f"{only(alexnet, layer=layer, bits=b)['valid']:,}" for b in bits]
        body.append([f"AlexNet, layer {layer[-1]}", f"{first['pruned_size']:,}", f"{first['valid']:,}", *more])
    for network, arch in pairs_of(networks):
        sums = {
            b: sum(row["valid"] for row in where(networks, network=network, arch=arch, bits=b)) for b in (16, *bits)
        }
        size = sum(row["pruned_size"] for row in where(networks, network=network, arch=arch, bits=16))
        body.append(
            [f"{pair_name(network, arch)}, all layers", f"{size:,}", *(f"{count:,}" for count in sums.values())]
        )
    header = ["valid mappings", "of", "16 bits", *(f"{b} bits" for b in bits)]
    every = alexnet + networks
    log_rows = [
        [
            f"layer {row['layer'][-1]}, {row['bits']}",
            f"{row['valid']:,}",
            f"{row['runs']:,}",
            f"{row['lines_published']:,}",
        ]
        for row in logs
    ]
    met = sum(row["runs"] == row["lines_published"] for row in logs)
    costs = []
    for layer in values(alexnet, "layer"):
        energy, edp = (_relative(alexnet, layer, key) for key in ("least_energy_pj", "best_edp_pj_cycles"))
        costs.append([f"layer {layer[-1]}", *(change(of[b]) for of in (energy, edp) for b in bits)])
    return f"""## Quantization opens mappings

Narrow operands make tiles smaller, so that mappings fit which did not fit before. The paper shows this by counts from searches; here
whole spaces are counted, exactly, and every optimum is proven (orders of loops of bound 1 are not counted apart).

{markdown(header, body)}

![Valid mappings and least energy of AlexNet's layers on Eyeriss](alexnet.png)

{_per_layer(networks)}

AlexNet's least energy and best EDP against those at 16 bits, each of its own best mapping:

{markdown(["", *(f"energy, {b} bits" for b in bits), *(f"EDP, {b} bits" for b in bits)], costs)}

![How many more mappings are valid than at 16 bits, layer by layer](networks.png)

**What the new mappings are worth.** Keep each layer's best mapping at 16 bits and only pack its operands, and at 4 bits AlexNet's layers need {_worth(alexnet, 4)}
more than with the best mapping for 4 bits; the MobileNets' layers need {_worth(networks, 4)} more ({_worth(networks, 2)} at 2 bits). In {_opened(every, 4)}
cases at 4 bits the best mapping is one that would not fit at 16. So the claim holds: there is a hidden space, and the best mapping often lies
in it. But of the energy that 4 bits save, packing alone saves {_packing(every, 4)}, and the choice of another mapping the rest.

**The published counts.** The authors' logs of exhaustive searches of AlexNet list fewer mappings than are valid. They did not stop early, and
their lines are no counts of valid mappings: a line is the best of a run of consecutive valid mappings with the same innermost tile, in one of 24
threads. Counted by that rule, {met} of {len(logs)} logs have as many lines as there are runs:

{markdown(["inputs/weights/outputs", "valid mappings", "runs", "lines of the log"], log_rows)}

So how fast the lines grow with narrower operands says little about how fast mappings do.
"""


def _per_layer(rows: list[Row]) -> str:
    sentences = []
    for network, arch in pairs_of(rows):
        of_pair = where(rows, network=network, arch=arch)
        more = [_relative(of_pair, layer, "valid")[4] - 1 for layer in values(of_pair, "layer")]
        sentences.append(f"{pair_name(network, arch)} {span(more, 0)}")
    return f"Layer by layer the growth differs much. At 4 bits: {', '.join(sentences)}."


def _worth(rows: list[Row], bits: int) -> str:
    return span(row["unpacked_mapping_pj"] / row["least_energy_pj"] - 1 for row in where(rows, bits=bits))


def _packing(rows: list[Row], bits: int) -> str:
    """The share of what narrow widths save that the best unpacked mapping saves too, of all layers of each pair together."""
    shares = []
    for network, arch in pairs_of(rows):
        of_pair = where(rows, network=network, arch=arch)
        before = sum(row["least_energy_pj"] for row in where(of_pair, bits=16))
        kept, best = (
            sum(row[key] for row in where(of_pair, bits=bits)) for key in ("unpacked_mapping_pj", "least_energy_pj")
        )
        shares.append((before - kept) / (before - best))
    return span(shares, 0)


def _opened(rows: list[Row], bits: int) -> str:
    of_bits = where(rows, bits=bits)
    return f"{sum(not row['fits_unpacked'] for row in of_bits)} of {len(of_bits)}"


def main() -> None:
    run(sys.modules[__name__])


if __name__ == "__main__":
    main()
