"""Take the sample of the reference data that the tests use, so that the project stands alone.

    python experiments/make_golden.py REFERENCE tests/golden [--quick]

REFERENCE is a folder with eval/public, eval/stress, authors, mapspace and best, as the reference tool's data comes. Expected: a minute on 2 cores; --quick takes the first 40 records of every file.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

from mqjax.io.files import write_atomically
from mqjax.io.records import read_records

PER_FILE = {"eval/public": 16, "eval/stress": 12, "authors": 16}


def records(path: Path, most: int | None) -> list[dict[str, Any]]:
    """The first `most`, or all, records of a .jsonl or .jsonl.gz file."""
    return [record for _, record in itertools.islice(read_records(path), most)]


def write(path: Path, lines: list[Any]) -> None:
    """Write gzipped JSON lines that do not depend on when they are written."""
    content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    write_atomically(path, gzip.compress(content.encode(), 9, mtime=0))
    print(f"{path}: {len(lines)} lines")


def sample(found: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` records spread over a file; of those with link transfers, which are rare, three more."""
    chosen = list(range(0, len(found), max(1, len(found) // count)))[:count]
    linked = [i for i, record in enumerate(found) if _links(record) and i not in chosen]
    return [found[i] for i in sorted(chosen + linked[:3])]


def _links(record: dict[str, Any]) -> bool:
    networks = record.get("stats", {}).get("networks", {})
    return any(t["link_transfers"] for network in networks.values() for t in network["tensors"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    most = 40 if args.quick else None
    for folder, count in PER_FILE.items():
        files = sorted((args.reference / folder).glob("*.jsonl.gz"))
        lines = [record for path in files for record in sample(records(path, most), count)]
        write(args.out / f"{Path(folder).name}.jsonl.gz", lines)
    for name in ("sizes", "enum", "valid_counts"):
        write(args.out / f"{name}.jsonl.gz", records(args.reference / "mapspace" / f"{name}.jsonl", most))
    best = []
    for path in sorted((args.reference / "best").glob("*.jsonl")):
        for record in records(path, most):
            keys = ("arch", "layer", "shape", "dims", "bitwidths", "objective", "mapping")
            best.append({key: record[key] for key in keys if key in record})
    write(args.out / "best.jsonl.gz", best)


if __name__ == "__main__":
    main()
