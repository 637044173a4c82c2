"""What a bit buys: energy by level and tensor for uniform and mixed widths, with words of 16 and of 8 bits.

    python experiments/bits.py [--quick] [--out experiments/results/bits]

Both MobileNets (224x224, 1,000 classes, depthwise layers counted right) on both accelerators, each with 16-bit words and with
the two 8-bit variants of the paper; every cost is that of a proven-optimal mapping.
Expected: four minutes on 2 cores, half of one once the tables are cached. From 16 to 8 bits saves 41 to 46 % of the energy,
from 8 to 4 another 32 to 40 %; 6, 7 and 8 bits cost the same. --quick: two layers of a small network, seconds.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from common import (
    ARCHS,
    NETWORKS,
    TITLE,
    Row,
    Tables,
    change,
    label_panels,
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
from mqjax import BitWidths, CostTable, cost_table, load_arch
from mqjax.arch import Arch
from mqjax.cost.packing import packing_table
from mqjax.io.files import cache_folder
from mqjax.io.records import evaluate_records
from mqjax.mapper.table import entry_of
from mqjax.mapspace.mapping import mapped_layer
from mqjax.network.wiring import Wiring
from mqjax.show.figures import GREY
from mqjax.types import TENSORS, WIDTHS

SETTINGS = {
    "16/16": None,
    "8/8": (8, 8),
    "8/4": (8, 4),
    "8/2": (8, 2),
    "4/8": (4, 8),
    "2/8": (2, 8),
    "4/4": (4, 4),
    "2/2": (2, 2),
}
"""Widths of stored tensors and of kernels; 16 is one operand a word of 16 bits."""
WORDS = {"16bit": "", "8bit_same": "_8bit_same", "8bit_changed": "_8bit_changed"}
PLACES = ("local", "buffer", "DRAM")
SHADES = {
    "Weights": ("#bcd7ef", "#5d9fd3", "#0b5fa5"),
    "Inputs": ("#fbd9b5", "#f0a35a", "#c8640a"),
    "Outputs": ("#c9e5d2", "#7dbb93", "#33794f"),
}


def measure(args: argparse.Namespace) -> Tables:
    levels: list[Row] = []
    layers: list[Row] = []
    widths: list[Row] = []
    for network in ("mobilenetv1",) if args.quick else NETWORKS:
        net = source(network, args.quick)
        wiring, shapes = net.wiring(), net.layers()[: 2 if args.quick else None]
        for name in ("eyeriss",) if args.quick else ARCHS:
            for words in WORDS:
                arch = load_arch(name + WORDS[words])
                table = cost_table(arch, shapes, cache=cache_folder())
                keys = {"network": network, "arch": name, "words": words}
                by_layer = {}
                for setting in SETTINGS:
                    if setting == "16/16" and words != "16bit":
                        continue
                    bits = uniform_widths(wiring, SETTINGS[setting])[: len(shapes)]
                    parts, by_layer[setting] = by_level(arch, table, bits)
                    levels += [{**keys, "setting": setting, **part} for part in parts]
                for i, layer in enumerate(shapes):
                    energies = {
                        setting: float(by_layer[setting][i]) if setting in by_layer else None for setting in SETTINGS
                    }
                    layers.append({**keys, "layer": layer.name, **energies})
                for stored in WIDTHS:
                    for kernel in WIDTHS:
                        bits = uniform_widths(wiring, (stored, kernel))[: len(shapes)]
                        energy = _energies(table, bits).sum()
                        mac = _mac_energy(levels, **keys)
                        widths.append(
                            {
                                **keys,
                                "stored": stored,
                                "kernel": kernel,
                                "energy_pj": float(energy),
                                "mac_pj": mac,
                                "proven": table.covered,
                            }
                        )
                print(network, arch.name, file=sys.stderr, flush=True)
    packing = [
        {"word_bits": word, "bits": bits, "operands_per_word": word // bits, "unused_bits": word % bits}
        for word in (16, 8)
        for bits in range(2, word + 1)
    ]
    for row in packing:  # the rule in words, and that of the model
        arch = load_arch("eyeriss" if row["word_bits"] == 16 else "eyeriss_8bit_same")
        assert (packing_table(arch, BitWidths(*[row["bits"]] * 3)) == row["operands_per_word"]).all()
    return {"levels": levels, "layers": layers, "widths": widths, "packing": packing}


def uniform_widths(wiring: Wiring, setting: tuple[int, int] | None) -> list[BitWidths]:
    """The width triple of every layer; the network's output has 8 bits."""
    if setting is None:
        return [BitWidths()] * len(wiring.layers)
    stored, kernel = setting
    return [BitWidths(stored, kernel, 8 if to == len(wiring.tensors) else stored) for to in wiring.writes]


def _energies(table: CostTable, bits: list[BitWidths]) -> np.ndarray:
    """Least energy of every layer, float64 [L]."""
    return np.array([table.tables[i].value("energy")[entry_of(b)] for i, b in zip(table.index, bits, strict=True)])


def _mac_energy(levels: list[Row], **keys: Any) -> float:
    return only(levels, **keys, setting="8/8", level="MAC")["energy_pj"]


def by_level(arch: Arch, table: CostTable, bits: list[BitWidths]) -> tuple[list[Row], np.ndarray]:
    """Energy by level and tensor, summed over the layers' best mappings, and the energy of every layer, float64 [L]."""
    records = [
        {"dims": layer.dims, "shape": layer.shape, "bitwidths": _given(b), "mapping": table.mapping("energy", i, b)}
        for i, (layer, b) in enumerate(zip(_mapped(table, bits), bits, strict=True))
    ]
    found = [result["stats"] for result in evaluate_records(arch, records)]
    sums: dict[tuple[str, str], float] = {}
    for stats in found:
        for level, of_level in stats["levels"].items():
            for tensor, of_tensor in of_level["tensors"].items():
                if of_tensor["keep"]:
                    sums[level, tensor] = sums.get((level, tensor), 0.0) + of_tensor["energy_pJ"]
        sums["MAC", ""] = sums.get(("MAC", ""), 0.0) + stats["mac"]["energy_pJ"]
    total = np.array([stats["totals"]["energy_pJ"] for stats in found])
    assert np.array_equal(total, _energies(table, bits)) and np.isclose(sum(sums.values()), total.sum(), rtol=1e-12)
    return [{"level": key[0], "tensor": key[1], "energy_pj": value} for key, value in sums.items()], total


def _mapped(table: CostTable, bits: list[BitWidths]) -> list[Any]:
    """The layers with the bounds that their best mappings have."""
    return [
        mapped_layer(layer, table.mapping("energy", i, b))
        for i, (layer, b) in enumerate(zip(table.layers, bits, strict=True))
    ]


def _given(bits: BitWidths) -> dict[str, int] | None:
    return None if bits == BitWidths() else {"Inputs": bits.inputs, "Weights": bits.weights, "Outputs": bits.outputs}


def draw(tables: Tables) -> dict[str, Figure]:
    return {"levels": _draw_levels(tables["levels"]), "words": _draw_words(tables["widths"])}


def _place(level: str) -> str:
    """Local to the processing elements, in the shared buffer, or in DRAM."""
    return {"DRAM": "DRAM", "shared_glb": "buffer", "GlobalBuffer": "buffer"}.get(level, "local")


def _draw_levels(rows: list[Row]) -> Figure:
    pairs = pairs_of(rows)
    figure, panels = panels_of(pairs, (10.5, 3.1))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        of_pair = where(rows, network=network, arch=arch, words="16bit")
        names, at = values(of_pair, "setting"), np.arange(len(values(of_pair, "setting")))
        bottom = np.zeros(len(names))
        mac = np.array([only(of_pair, setting=name, level="MAC")["energy_pj"] for name in names]) / 1e9
        axes.bar(at, mac, 0.7, color=GREY, label="multipliers")
        bottom += mac
        for tensor in TENSORS:
            for place, color in zip(PLACES, SHADES[tensor], strict=True):
                parts = [where(of_pair, setting=name, tensor=tensor) for name in names]
                height = (
                    np.array([sum(r["energy_pj"] for r in part if _place(r["level"]) == place) for part in parts]) / 1e9
                )
                axes.bar(at, height, 0.7, bottom=bottom, color=color, label=f"{tensor.lower()}: {place}")
                bottom += height
        for x, height in zip(at, bottom, strict=True):
            relative = height / bottom[names.index("8/8")]
            axes.annotate(
                f"{100 * relative:.0f} %", (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.set_xticks(at, names)
        axes.set(ylabel="least energy (mJ)")
        axes.grid(color="#eceff3", axis="y")
    label_panels(panels, "bits of stored tensors / of kernels")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside upper center", frameon=False, fontsize=8.5)
    return figure


def _ratios(rows: list[Row], network: str, arch: str, words: str, *, macs: bool) -> np.ndarray:
    """Energy with 8-bit words over that with 16-bit words, float64 [7, 7] by widths of stored tensors and of kernels."""
    found = []
    for variant in (words, "16bit"):
        of_variant = where(rows, network=network, arch=arch, words=variant)
        grid = [row["energy_pj"] - (0 if macs else row["mac_pj"]) for row in of_variant]
        found.append(np.array(grid).reshape(len(WIDTHS), len(WIDTHS)))
    return found[0] / found[1]


def _draw_words(rows: list[Row]) -> Figure:
    pairs = pairs_of(rows)
    figure, panels = panels_of(pairs, (10, 3.9))
    image = None
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        ratios = _ratios(rows, network, arch, "8bit_same", macs=False)
        image = axes.imshow(ratios, cmap="RdBu_r", norm=TwoSlopeNorm(1, 0.9, 1.6), origin="lower")
        for i, j in np.ndindex(ratios.shape):
            strong = ratios[i, j] > 1.35
            axes.text(
                j,
                i,
                f"{round(100 * (ratios[i, j] - 1)) or 0:+d}".replace("+0", "0"),
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if strong else "black",
            )
        axes.set_xticks(range(len(WIDTHS)), list(map(str, WIDTHS)))
        axes.set_yticks(range(len(WIDTHS)), list(map(str, WIDTHS)))
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.tick_params(length=0)
        axes.set(xlabel="bits of kernels", ylabel="bits of stored tensors")
    if image is not None:
        figure.colorbar(
            image,
            ax=list(panels),
            label="memory energy: 8-bit words over 16-bit words (cells: change in %)",
            fraction=0.03,
        )
    return figure


def describe(tables: Tables) -> str:
    levels, widths = tables["levels"], tables["widths"]
    pairs = pairs_of(levels)

    def total(pair: tuple[str, str], setting: str, words: str = "16bit", **keys: Any) -> float:
        rows = where(levels, network=pair[0], arch=pair[1], words=words, setting=setting, **keys)
        return sum(row["energy_pj"] for row in rows)

    def ratio(a: str, b: str) -> str:
        return span(1 - total(pair, a) / total(pair, b) for pair in pairs)

    body = []
    for pair in pairs:
        eight = total(pair, "8/8")
        changes = [change(total(pair, setting) / eight) for setting in SETTINGS if setting != "8/8"]
        body.append([pair_name(*pair), f"{eight / 1e9:.3f}", *changes])
    header = ["energy", "8/8 (mJ)", *(setting for setting in SETTINGS if setting != "8/8")]
    mac = {
        setting: span((total(pair, setting, level="MAC") / total(pair, setting) for pair in pairs), 0)
        for setting in ("16/16", "2/2")
    }
    alike = all(
        len(
            {
                row["energy_pj"]
                for row in where(widths, words="16bit", network=n, arch=a)
                if row["stored"] > 5 and row["kernel"] > 5
            }
        )
        == 1
        for n, a in pairs
    )
    packed = {word: where(tables["packing"], word_bits=word) for word in (16, 8)}
    packs = markdown(
        ["operands a word", *map(str, WIDTHS)],
        [
            [f"{word}-bit words", *(only(packed[word], bits=bits)["operands_per_word"] for bits in WIDTHS)]
            for word in (16, 8)
        ],
    )
    return f"""## What a bit buys

A word of 16 bits holds as many operands as fit, and an access costs a word. So energy follows the number of operands in a word, not
the bits themselves. From 16 bits (one operand a word) to 8 the networks need {ratio("8/8", "16/16")} less energy, from 8 to
4 another {ratio("4/4", "8/8")}, from 4 to 2 another {ratio("2/2", "4/4")}. Each halving buys less than the one before, because multipliers cost the same
at any width in this model: they take {mac["16/16"]} of the energy at 16 bits and {mac["2/2"]} at 2.

![Energy by tensor and level at uniform and mixed widths](levels.png)

{markdown(header, body)}

(Stored tensors / kernels; changes are against 8 bits everywhere.) {_weights_or_stored(pairs, total)}

**Why 6, 7 and 8 bits cost the same.** All three go twice into a 16-bit word; the bits left over are wasted.

{packs}

{"In all tables here the energies at 6, 7 and 8 bits are equal to the last digit." if alike else "The energies at 6, 7 and 8 bits differ in these tables."} With 16-bit words only 8, 5, 4, 3 and 2 bits
are worth choosing; a width of 7 or 6 costs accuracy and saves nothing. (Sizes of models in bits do fall, which is why they are a poor guide.)

**Which words suit which widths.** {_words(widths, pairs)}

![Memory energy with 8-bit words against 16-bit words, by widths](words.png)
"""


def _weights_or_stored(pairs: list[tuple[str, str]], total: Any) -> str:
    better = [pair for pair in pairs if total(pair, "4/8") < total(pair, "8/4")]
    return f"Narrow stored tensors save more than narrow kernels in {len(better)} of {len(pairs)} cases: inputs and outputs of all layers move, weights are few."


def _words(rows: list[Row], pairs: list[tuple[str, str]]) -> str:
    def at(stored: int, kernel: int, words: str = "8bit_same", *, macs: bool = False) -> list[float]:
        place = WIDTHS.index(stored), WIDTHS.index(kernel)
        return sorted(_ratios(rows, *pair, words, macs=macs)[place] for pair in pairs)

    def changes(ratios: list[float]) -> str:
        return f"{change(ratios[0]).removesuffix(' %')} to {change(ratios[-1])}"

    return f"""Two 8-bit words hold as many operands of 8, 7, 6, 4 and 2 bits as one 16-bit word, and in the "same" variant a block of them
costs as much: memories need nearly the same energy ({changes(at(8, 8))} at 8/8, {changes(at(2, 2))} at 2/2; Simba's small gain is from partial sums, whose
words these variants widen from 16 to 24 bits). But three operands of 5 bits fit into 16 bits and only one into 8, and five of 3 bits
where two 8-bit words hold four: {changes(at(5, 5))} at 5/5 and {changes(at(3, 3))} at 3/3. So 16-bit words suit assignments with 3 and 5 bits, and
for all others the choice hardly matters to memories. What does make the 8-bit variants cheaper is that their multipliers are built for 8 bits:
multipliers included, they change the energy at 8/8 by {changes(at(8, 8, macs=True))}, and with the smaller weight stores of the "changed"
variant by {changes(at(8, 8, "8bit_changed", macs=True))}. They could not multiply wider operands."""


def main() -> None:
    run(sys.modules[__name__])


if __name__ == "__main__":
    main()
