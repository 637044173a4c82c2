"""`mqjax evaluate`: costs of given mappings, record by record."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

from mqjax.commands._layers import add_arch_arguments

BATCH = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    parser.add_argument("--records", type=Path, required=True, help="mappings to evaluate, .jsonl or .jsonl.gz")
    parser.add_argument(
        "--out", type=Path, required=True, help="evaluated records in the same order, .jsonl or .jsonl.gz"
    )


def run(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.io.files import write_atomically
    from mqjax.io.records import evaluate_records, read_records
    from mqjax.show.progress import bar

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
    content = "".join(line + "\n" for line in lines).encode()
    write_atomically(args.out, gzip.compress(content, mtime=0) if args.out.suffix == ".gz" else content)
    print(f"{len(lines)} mappings evaluated, {valid} valid: {args.out}", file=sys.stderr)
    return 0
