"""Compare the evaluator with evaluated records of the reference tool, quantity by quantity.

    python experiments/check_reference.py DIR [--quick]

reads every .jsonl and .jsonl.gz file below DIR and prints how many values of each quantity agree: integers exactly,
others to 1e-12 relative. Exit status 1 if anything differs. Records with a "variant" are the authors' runs of 2023:
they belong to the 2023 dialect and round the utilization to 6 digits.
Expected: three minutes on 2 cores for 14,000 records; --quick takes one of every 64 records of a file.
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.records import evaluate_records, read_records
from mqjax.show.progress import bar

TOLERANCE = 1e-12
VARIANTS = {"16bit_int": "", "8bit_int_same": "_8bit_same", "8bit_int_changed": "_8bit_changed"}
NOT_MODELLED = {"runtime_s"}  # the other tool's search time


@cache
def arch_of(name: str, variant: str | None) -> Arch:
    """The accelerator that a record was evaluated on."""
    if variant is None:
        return load_arch(name)
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; it must be one of {', '.join(VARIANTS)}")
    return load_arch(name + VARIANTS[variant], dialect="2023")


def evaluate_any(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluate records of several accelerators, in order."""
    results: list[dict[str, Any]] = [{} for _ in records]
    rows = collections.defaultdict(list)
    for row, record in enumerate(records):
        rows[record["arch"], record.get("variant")].append(row)
    for key, at in rows.items():
        for row, result in zip(at, evaluate_records(arch_of(*key), [records[row] for row in at]), strict=True):
            results[row] = result
    return results


def compare(record: dict[str, Any], result: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(quantity, whether it agrees) for everything that `record` holds."""
    yield "valid", record["valid"] == result["valid"]
    if record["valid"] != result["valid"]:
        return
    if not record["valid"]:
        yield "fail.stage", record["fail"]["stage"] == result["fail"]["stage"]
        yield "fail.levels", record["fail"]["levels"] == result["fail"]["levels"]
        return
    yield from _compare_tree(record["stats"], result["stats"], (), rounded="variant" in record)


def _compare_tree(wanted: Any, found: Any, path: tuple[str, ...], *, rounded: bool) -> Iterator[tuple[str, bool]]:
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            if key in NOT_MODELLED:
                continue
            if not isinstance(found, dict) or key not in found:
                yield _name((*path, key)), False
            else:
                yield from _compare_tree(value, found[key], (*path, key), rounded=rounded)
    elif isinstance(wanted, list):
        alike = isinstance(found, list) and len(wanted) == len(found)
        yield _name((*path, "length")), alike
        if alike:
            for a, b in zip(wanted, found, strict=True):
                yield from _compare_tree(a, b, path, rounded=rounded)
    elif path[-1] == "utilization" and rounded:
        yield _name(path), abs(wanted - found) <= 0.5000001e-6
    else:
        yield _name(path), same(wanted, found)


def same(wanted: Any, found: Any) -> bool:
    """Integers and texts exactly, other numbers to `TOLERANCE`."""
    if isinstance(wanted, float) or isinstance(found, float):
        if wanted is None or found is None:
            return False
        return abs(wanted - found) <= TOLERANCE * abs(wanted)
    return wanted == found


def _name(path: tuple[str, ...]) -> str:
    """The quantity, without the names of levels and tensors: levels.reads, networks.ingresses, totals.cycles."""
    return f"{path[0]}.{'.'.join(path[-1:] if path[-1] != 'length' else path[-2:])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    folder, step = args.folder, 64 if args.quick else 1
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".jsonl", ".jsonl.gz")))
    if not files:
        print(f"no .jsonl or .jsonl.gz files below {folder}", file=sys.stderr)
        return 2
    agree, total, records = collections.Counter(), collections.Counter(), 0
    with bar("comparing", len(files), "files") as progress:
        for path in files:
            wanted = [record for _, record in read_records(path)][::step]
            for record, result in zip(wanted, evaluate_any(wanted), strict=True):
                for quantity, equal in compare(record, result):
                    total[quantity] += 1
                    agree[quantity] += equal
            records += len(wanted)
            progress.advance()
    print(f"{records} records in {len(files)} files")
    for quantity, count in total.items():
        print(f"{quantity:45s} {agree[quantity]:>9,} / {count:>9,}  {agree[quantity] / count:9.4%}")
    return 0 if agree == total else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"check_reference: {error}", file=sys.stderr)
        sys.exit(2)
