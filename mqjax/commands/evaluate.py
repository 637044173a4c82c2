"""`mqjax evaluate`: costs of given mappings, record by record, or of one in a Timeloop map file."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

from mqjax.commands._layers import (
    add_arch_arguments,
    add_bits_argument,
    add_layer_arguments,
    add_number_argument,
    chosen_layer,
    read_mapping_of,
    single_widths,
)
from mqjax.errors import InputError
from mqjax.types import UNPACKED

BATCH = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--records", type=Path, help="mappings to evaluate, .jsonl or .jsonl.gz")
    source.add_argument("--mapping", type=Path, help="one mapping, a Timeloop map YAML, of --layer at --bits")
    parser.add_argument(
        "--out",
        type=Path,
        help="evaluated records in the same order, .jsonl or .jsonl.gz (with --mapping: default standard output)",
    )
    add_layer_arguments(parser, required=False, constraints=False)
    add_number_argument(parser)
    add_bits_argument(parser, default=None, help=f"with --mapping: widths I/W/O, or '{UNPACKED}' (the default)")


def run(args: argparse.Namespace) -> int:
    return _evaluate_records(args) if args.mapping is None else _evaluate_mapping(args)


def _evaluate_records(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.io.records import evaluate_records, read_records
    from mqjax.show.progress import bar

    for option in ("layer", "network", "bits"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} goes with --mapping; records have layers and bit-widths of their own")
    if args.out is None:
        raise InputError("--records needs --out, the file for the evaluated records")
    arch = load_arch(args.arch, dialect=args.dialect)
    numbered = list(read_records(args.records))
    lines, valid = [], 0
    with bar("evaluating", len(numbered), "mappings") as progress:
        for start in range(0, len(numbered), BATCH):
            part = numbered[start : start + BATCH]
            where = [f"{args.records}, line {number}" for number, _ in part]
            results = evaluate_records(arch, [record for _, record in part], where=where)
            lines += [json.dumps(result, allow_nan=False) for result in results]
            valid += sum(result["valid"] for result in results)
            progress.advance(len(part))
    _write(args.out, "".join(line + "\n" for line in lines))
    print(f"{len(lines)} mappings evaluated, {valid} valid: {args.out}", file=sys.stderr)
    return 0


def _evaluate_mapping(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.io.records import evaluate_records
    from mqjax.mapspace.padding import describe_padding, mapped_as

    if args.layer is None and args.network is None:
        raise InputError("--mapping needs --layer, or --network and --number, to say what is mapped")
    arch = load_arch(args.arch, dialect=args.dialect)
    layer, bits = chosen_layer(args), single_widths(args.bits or UNPACKED)
    mapped, mapping = read_mapping_of(arch, layer, args.mapping)
    if larger := describe_padding(layer, mapped_as(layer, mapped)):
        print(f"{layer.name}: {larger}", file=sys.stderr)
    widths = {"Inputs": bits.inputs, "Weights": bits.weights, "Outputs": bits.outputs}
    record = {
        "arch": arch.name,
        "layer": layer.name,
        "dims": mapped.dims,
        "shape": mapped.shape,
        "bitwidths": {tensor: width for tensor, width in widths.items() if width is not None} or None,
        "mapping": mapping,
    }
    (result,) = evaluate_records(arch, [record], where=[str(args.mapping)])
    line = json.dumps(result, allow_nan=False) + "\n"
    if args.out is None:
        print(line, end="")
    else:
        _write(args.out, line)
    if result["valid"]:
        totals = result["stats"]["totals"]
        print(f"energy {totals['energy_pJ']:.6g} pJ, {totals['cycles']:,} cycles", file=sys.stderr)
    else:
        print("the mapping does not fit; mqjax explain says why", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    from mqjax.io.files import write_atomically

    write_atomically(path, gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text)
