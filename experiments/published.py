"""The authors' published runs of MobileNetV1 beside proven optima of the same layers.

    python experiments/published.py DIR [--quick] [--out experiments/results/published]

DIR holds the runs of 2023 as records (.jsonl or .jsonl.gz, with a "variant"): the best mapping by EDP that a search of samples
found for each of 28 layers, for weights of 2 to 8 bits and activations of 8, on six variants of the accelerators. Each mapping is
evaluated again, with the fill rule of 2023, and the optimum of its layer set beside it.
Expected: three minutes on 2 cores, half of one once the tables are cached. All 1,176 published energies and cycles are met; optima
have 0.1 to 2.5 % less EDP. --quick: the two smallest layers on one variant.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from check_reference import VARIANTS, arch_of, evaluate_any, same
from common import ARCHS, TITLE, Row, Tables, change, markdown, run, span, values, where
from mqjax import InputError, cost_table, network_layers
from mqjax.io.files import cache_folder
from mqjax.io.records import parse, read_records
from mqjax.mapper.table import entry_of
from mqjax.show.figures import BLUE, ORANGE, PURPLE


def measure(args: argparse.Namespace) -> Tables:
    paths = sorted(path for path in args.folder.rglob("*") if path.name.endswith((".jsonl", ".jsonl.gz")))
    records = [r for path in paths for _, r in read_records(path) if "variant" in r]
    if not records:
        raise InputError(f"no records with a variant below {args.folder}")
    if args.quick:
        records = [r for r in records if (r["arch"], r["variant"]) == ("eyeriss", "16bit_int")]
        few = sorted({parse(r)[0].macs for r in records})[:2]
        records = [r for r in records if parse(r)[0].macs in few]
    rows: list[Row] = []
    for name, variant in dict.fromkeys((r["arch"], r["variant"]) for r in records):
        runs = [r for r in records if (r["arch"], r["variant"]) == (name, variant)]
        parsed = [parse(r) for r in runs]
        table = cost_table(arch_of(name, variant), [layer for layer, _ in parsed], cache=cache_folder())
        again = evaluate_any(runs)
        for width in sorted({bits.weights for _, bits in parsed}):
            at = [i for i, (_, bits) in enumerate(parsed) if bits.weights == width]
            theirs = [runs[i]["stats"]["totals"] for i in at]
            ours = [again[i]["stats"]["totals"] for i in at]
            keys = ("energy_pJ", "cycles")
            optima = [(table.tables[table.index[i]], entry_of(parsed[i][1])) for i in at]
            best = np.array([[t.value(m, by="edp")[e] for m in ("energy", "edp", "delay")] for t, e in optima])
            edps = np.array([total["energy_pJ"] * total["cycles"] for total in theirs])
            rows.append(
                {
                    "arch": name,
                    "variant": variant,
                    "weights": width,
                    "layers": len(at),
                    "met_exactly": sum(all(same(a[k], b[k]) for k in keys) for a, b in zip(theirs, ours, strict=True)),
                    "published_energy_pj": sum(total["energy_pJ"] for total in theirs),
                    "published_cycles": sum(total["cycles"] for total in theirs),
                    "published_edp_sum_pj_cycles": float(edps.sum()),
                    "best_edp_energy_pj": float(best[:, 0].sum()),
                    "best_edp_cycles": int(best[:, 2].sum()),
                    "best_edp_sum_pj_cycles": float(best[:, 1].sum()),
                    "least_energy_pj": float(sum(t.value("energy")[e] for t, e in optima)),
                    "already_optimal": int(np.isclose(edps, best[:, 1], rtol=1e-12).sum()),
                    "proven": table.covered,
                }
            )
        print(name, variant, file=sys.stderr, flush=True)
    true = network_layers("mobilenetv1", depthwise="dense")
    named = {r["layer"]: parse(r)[0] for r in records}
    shapes = []
    for name, layer in sorted(named.items(), key=lambda item: int(item[0].rpartition("layer")[2])):
        meant = true[int(name.rpartition("layer")[2]) - 1]
        plain = [f"{x.C}x{x.M}x{x.R}x{x.S} to {x.P}x{x.Q}, stride {x.Wstride}" for x in (layer, meant)]
        shapes.append(
            {
                "layer": name,
                "published": plain[0],
                "mobilenetv1": plain[1],
                "alike": plain[0] == plain[1],
                "macs_ratio": layer.macs / meant.macs,
            }
        )
    return {"runs": rows, "shapes": shapes}


def draw(tables: Tables) -> dict[str, Figure]:
    rows = tables["runs"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    archs = values(rows, "arch")
    panels = figure.subplots(1, len(archs), squeeze=False, sharey=True)[0]
    colors = dict(zip(VARIANTS, (BLUE, ORANGE, PURPLE), strict=True))
    for axes, arch in zip(panels, archs, strict=True):
        for number, (variant, color) in enumerate(colors.items()):
            of_case = where(rows, arch=arch, variant=variant)
            at = np.array([row["weights"] for row in of_case]) + 0.26 * (number - 1)
            above = [row["published_edp_sum_pj_cycles"] / row["best_edp_sum_pj_cycles"] - 1 for row in of_case]
            axes.bar(at, 100 * np.array(above), 0.24, color=color, label=_variant(variant))
        of_arch = where(rows, arch=arch)
        already, runs = (sum(row[key] for row in of_arch) for key in ("already_optimal", "layers"))
        axes.set_title(f"{ARCHS[arch]}: {already} of {runs} published mappings were optimal", **TITLE)
        axes.set(xlabel="bits of weights", xticks=values(of_arch, "weights"))
        axes.grid(color="#eceff3", axis="y")
    panels[0].set_ylabel("published EDP above the optimum (%)")
    panels[0].legend(frameon=False, fontsize=8.5)
    return {"edp": figure}


def _variant(variant: str) -> str:
    return {"16bit_int": "16-bit words", "8bit_int_same": "8-bit words", "8bit_int_changed": "8-bit words, changed"}[
        variant
    ]


def describe(tables: Tables) -> str:
    rows, shapes = tables["runs"], tables["shapes"]
    runs, met = (sum(row[key] for row in rows) for key in ("layers", "met_exactly"))
    edp, energy, least = (
        span(1 - row[f"{ours}_pj{unit}"] / row[f"published_{theirs}_pj{unit}"] for row in rows)
        for ours, theirs, unit in (
            ("best_edp_sum", "edp_sum", "_cycles"),
            ("best_edp_energy", "energy", ""),
            ("least_energy", "energy", ""),
        )
    )
    already = sum(row["already_optimal"] for row in rows)
    other = [row for row in shapes if not row["alike"]]
    body = [
        [
            f"{ARCHS[row['arch']]}, {_variant(row['variant'])}, {row['weights']}-bit weights",
            f"{row['published_energy_pj'] / 1e9:.2f}",
            f"{row['best_edp_energy_pj'] / 1e9:.2f}",
            f"{row['least_energy_pj'] / 1e9:.2f}",
            change(row["best_edp_sum_pj_cycles"] / row["published_edp_sum_pj_cycles"]),
        ]
        for row in rows
        if row["weights"] in (8, 4, 2)
    ]
    header = ["", "published (mJ)", "best EDP (mJ)", "least energy (mJ)", "EDP"]
    last = shapes[-1]
    strided = next((row for row in other if "stride 2" in row["published"]), None)
    why = (
        ""
        if strided is None
        else f"""Their strided layers are without padding ({_layer(strided)}: {strided["published"]}, where the network has
{strided["mobilenetv1"].split(" to ")[1]}), which shrinks all that follow, and the last layer is applied to every position before pooling ({last["macs_ratio"]:g} times its MACs)."""
    )
    return f"""## Against the published runs

The authors published the best mapping, by EDP, of each of MobileNetV1's 28 layers for weights of 2 to 8 bits
and activations of 8, on six variants. Of these {runs:,} runs mqjax meets {met:,} exactly, energy and cycles, where the mapping is theirs (with
the fill rule of 2023). Where the mapping is the optimum, the sum of EDPs is {edp} lower, the energy of these mappings {energy} lower, and the least
energy possible {least} lower. {already:,} of the published mappings were optimal already.

![Published EDP of MobileNetV1's layers beside the proven optimum](edp.png)

{markdown(header, body)}

The published sums are not quite those of MobileNetV1 at 224x224. They count depthwise layers as dense (see the next section), and {len(other)} of the {len(shapes)}
layers have other shapes. {why}
"""


def _layer(row: Row) -> str:
    return row["layer"].partition("_")[2]


def main() -> None:
    run(sys.modules[__name__], lambda parser: parser.add_argument("folder", type=Path, metavar="DIR"), arguments="DIR")


if __name__ == "__main__":
    main()
