"""`mqjax network show`: a network as the mapper sees it, what memory keeps, and what of its file was skipped."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from mqjax.commands._layers import DEPTHWISE_OPTION, add_sizes
from mqjax.types import DEPTHWISE

if TYPE_CHECKING:
    from mqjax.models.files import NetworkSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summary = "print layers, stored tensors, sizes, and what of a file was skipped"
    show = actions.add_parser(
        "show",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="examples:\n  mqjax network show model.onnx\n  mqjax network show my_nets:Small@32x32x3 --json",
    )
    show.add_argument(
        "network",
        help="a network's name; a file: ONNX, layers as YAML or CSV, a Timeloop problem; or a Flax module, MODULE:OBJECT@HxWxC",
    )
    add_sizes(show, "a named network")
    show.add_argument("--depthwise", default=DEPTHWISE[0], help="how depthwise layers are seen", **DEPTHWISE_OPTION)
    show.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from mqjax.models import load_network

    sizes = {name: getattr(args, name) for name in ("width_multiplier", "resolution", "classes", "channels")}
    document = describe_network(load_network(args.network, **sizes), depthwise=args.depthwise)
    if args.json:
        print(json.dumps(document, indent=1))
    else:
        _print(document)
    return 0


def describe_network(source: NetworkSource, *, depthwise: str = DEPTHWISE[0]) -> dict[str, Any]:
    """What the command shows, as JSON has it."""
    layers, wiring, graph = source.layers(depthwise=depthwise), source.wiring(), source.graph
    imported = source.imported
    rows = []
    for number, layer in enumerate(layers):
        read, written = wiring.reads[number], wiring.writes[number]
        row = {
            "name": layer.name,
            "shape": layer.shape,
            "dims": layer.dims,
            "macs": layer.macs,
            "weights": layer.elements("Weights"),
            "reads": wiring.tensors[read],
            "writes": wiring.tensors[written] if written < len(wiring.tensors) else "output",
        }
        if imported is not None and imported.widths:
            bits = imported.widths[number]
            row["bits"] = {"input": bits.inputs, "weight": bits.weights, "output": bits.outputs}
        rows.append(row)
    held = [max(live[t] for live in wiring.live) for t in range(len(wiring.tensors) + 1)]
    return {
        "network": source.name,
        "image": None if graph is None else list(graph.image_shape),
        "classes": None if graph is None else graph.classes,
        "parameters": None if graph is None else graph.parameters,
        "weights": sum(row["weights"] for row in rows),
        "macs": sum(row["macs"] for row in rows),
        "genes": wiring.genes,
        "layers": rows,
        "tensors": [
            {"name": name, "elements": elements}
            for name, elements in zip((*wiring.tensors, "output"), held, strict=True)
        ],
        "skipped": [] if imported is None else [entry._asdict() for entry in imported.skipped],
        "accuracy": None if imported is None else imported.inexact or "can be measured: the weights come along",
    }


def _print(document: dict[str, Any]) -> None:
    from mqjax.show.progress import print_table

    rows = []
    with_bits = any("bits" in row and any(row["bits"].values()) for row in document["layers"])
    for row in document["layers"]:
        dims = " ".join(f"{key}={value}" for key, value in row["dims"].items() if value > 1) or "C=1"
        line = [row["name"], row["shape"], dims, f"{row['macs']:,}", f"{row['weights']:,}", row["reads"], row["writes"]]
        if with_bits:
            line.append("/".join("-" if width is None else str(width) for width in row["bits"].values()))
        rows.append(line)
    headings = [
        "layer",
        "shape",
        "bounds",
        "MACs",
        "weights",
        "reads",
        "writes",
        *(["bits I/W/O"] if with_bits else []),
    ]
    print_table(f"{document['network']}: {len(rows)} layers", headings, rows)
    print_table(
        "stored tensors (values of one image that memory holds at most)",
        ("tensor", "values"),
        [(tensor["name"], f"{tensor['elements']:,}") for tensor in document["tensors"]],
    )
    if document["skipped"]:
        skipped = [(entry["node"], entry["op"], entry["reason"]) for entry in document["skipped"]]
        print_table("skipped nodes", ("node", "op", "why"), skipped)
    image = "" if document["image"] is None else f"images {'x'.join(map(str, document['image']))}, "
    classes = "" if document["classes"] is None else f"{document['classes']} outputs, "
    trained = "" if document["parameters"] is None else f"{document['parameters']:,} parameters, "
    print(f"{image}{classes}{trained}{document['macs']:,} MACs, {document['genes']} widths to choose")
    if document["accuracy"] is not None:
        print(f"accuracy: {document['accuracy']}")
