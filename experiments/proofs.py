"""Are the optima of all layers proven without the paper's heuristics, and in what time?

    python experiments/proofs.py [--networks mobilenetv1,...] [--archs eyeriss,...] [--constraints arch] [--bits 8/8/8|all]
        [--seconds 600] [--quick] [--out benchmarks/proofs.csv]

Every different layer of the networks (224x224, depthwise as depthwise) on every accelerator, under the constraints of the hardware
alone (arch) or under none, by energy, EDP and delay at once; an accelerator is a name or a file. Under none, layers that some mapping
lets neighbours forward data of are left out. --bits all proves all 343 triples of widths at once. One row each, written as they
come; rows that are there already are not measured again; a summary of all is printed. `seconds` are of CPU time, of one process
after compilation, up to `--seconds` a layer by the clock. Expected: half an hour on 2 cores. --quick: two layers on two accelerators.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import markdown, values, where
from mqjax import BitWidths, Layer, Mapspace, load_arch, network_layers
from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.mapper.levels.proof import prove
from mqjax.mapspace.padding import padded_or_itself
from mqjax.types import all_widths

HERE = Path(__file__).parent
CASES = HERE.parent / "tests" / "golden" / "cases"
NETWORKS = ("mobilenetv1", "mobilenetv2", "resnet18", "vgg16")
ARCHS = (
    "eyeriss",
    "simba",
    "eyeriss_8bit_same",
    "eyeriss_8bit_changed",
    "simba_8bit_same",
    "simba_8bit_changed",
    "tpu",
    str(CASES / "array128x128.yaml"),
    str(CASES / "six-levels.yaml"),
)
WARM_UP = Layer(C=4, M=4, P=4, Q=4, name="warm-up")

Row = dict[str, Any]


def space_of(arch: Arch, layer: Layer, constraints: str) -> Mapspace:
    return Mapspace(arch, padded_or_itself(arch, layer, constraints=constraints), constraints=constraints)


def prove_layer(space: Mapspace, network: str, bits: BitWidths | None, seconds: float) -> Row:
    """What is proven of one layer, at some widths or at all triples of 2 to 8 (`None`), whose costs are then those at 8/8/8."""
    started = time.process_time()
    triples = all_widths() if bits is None else [bits]
    solution = prove(space, triples, deadline=time.monotonic() + seconds).solution()
    spent = time.process_time() - started
    energy, edp, cycles = (float(value) for value in solution.values()[:, -1])
    return {
        "arch": space.arch.name,
        "network": network,
        "layer": space.layer.name,
        "constraints": space.constraints,
        "bits": "all" if bits is None else str(bits),
        "covered": solution.covered,
        "seconds": f"{spent:.2f}",
        "nominal_mappings": f"{space.size:.3g}",
        "energy_pj": f"{energy:.10g}",
        "edp_pj_cycles": f"{edp:.10g}",
        "cycles": f"{cycles:.10g}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--archs", default=",".join(ARCHS))
    parser.add_argument("--constraints", choices=("arch", "none"), default="arch")
    parser.add_argument("--bits", default="8/8/8")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE.parent / "benchmarks" / "proofs.csv")
    args = parser.parse_args()
    try:
        survey(args)
    except InputError as error:
        print(f"proofs: {error}", file=sys.stderr)
        sys.exit(2)


def survey(args: argparse.Namespace) -> None:
    networks, archs = args.networks.split(","), args.archs.split(",")
    if args.quick:
        networks, archs = networks[:1], archs[:2]
    rows: list[Row] = list(csv.DictReader(io.StringIO(args.out.read_text()))) if args.out.exists() else []
    bits = None if args.bits == "all" else BitWidths.parse(args.bits)
    known = {(row["arch"], row["network"], row["layer"], row["constraints"], row["bits"]) for row in rows}
    for arch in map(load_arch, archs):
        compiled = False
        for network in networks:
            layers = list(dict.fromkeys(network_layers(network)))
            for layer in layers[-2:] if args.quick else layers:
                if (arch.name, network, layer.name, args.constraints, args.bits) in known:
                    continue
                space = space_of(arch, layer, args.constraints)
                if args.constraints == "none" and space.may_forward:
                    continue
                if not compiled:
                    prove_layer(space_of(arch, WARM_UP, args.constraints), network, bits, args.seconds)
                    compiled = True
                rows.append(prove_layer(space, network, bits, args.seconds))
                write_atomically(args.out, _as_csv(rows))
                print(
                    *(rows[-1][key] for key in ("arch", "network", "layer", "covered", "seconds")),
                    file=sys.stderr,
                    flush=True,
                )
    print(summary(rows))


def summary(rows: list[Row]) -> str:
    """What the rows say together, a line per accelerator, constraints and widths."""
    lines = []
    for arch, constraints, bits in dict.fromkeys((row["arch"], row["constraints"], row["bits"]) for row in rows):
        mine = where(rows, arch=arch, constraints=constraints, bits=bits)
        layers = {network: len(where(mine, network=network)) for network in values(mine, "network")}
        proven = sum(str(row["covered"]) == "True" for row in mine)
        seconds = [float(row["seconds"]) for row in mine]
        largest = max(float(row["nominal_mappings"]) for row in mine)
        lines.append(
            [
                arch,
                constraints,
                bits,
                ", ".join(f"{network} {number}" for network, number in layers.items()),
                f"{proven} of {len(mine)}",
                f"{largest:.0e}",
                f"{statistics.median(seconds):.1f}",
                f"{max(seconds):.0f}",
                f"{sum(seconds):.0f}",
            ]
        )
    columns = "accelerator, constraints, widths, different layers, proven, largest space, median s, worst s, all s"
    return markdown(columns.split(", "), lines)


def _as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    main()
