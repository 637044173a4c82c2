"""Try random accelerators, layers and widths for as long as one likes; report what disagrees.

    python experiments/fuzz.py --minutes 10 --seed 1 [--quick]

Each case is judged as in the tests (tests/judge.py): the fast path against the exact evaluator, that against a model in
plain Python, whole spaces against enumeration. A disagreement is printed with the accelerator as YAML, the layer, the
widths and both values; the first of each kind also with the simplest case found that still shows it. Printed last: how
many of how many cases agree. Exit status 1 if any disagrees. Case number i of a seed is always the same.
--quick: one small case.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import oracle
from judge import CHECKS, disagreements
from random_accelerators import Case, draw, simpler

CASES_PER_CACHE = 10
"""Compiled programs are dropped after so many cases, so that memory stays bounded."""


def kind_of(message: str) -> str:
    """What a disagreement is about: its check and its first words, without numbers."""
    head = re.split(r" is | at |\(|, ", message)[0]
    return " ".join(re.sub(r"L?\d[\d./e+-]*", "#", head).split()[:8])


def found_in(case: Case, kind: str | None = None) -> list[str]:
    """The disagreements of a case, or those of one kind only."""
    checks = [check for check in CHECKS if kind is None or kind.startswith(f"{check.__name__}:")]
    found = [message for layer in case.layers for message in disagreements(case, layer, checks)]
    return [message for message in found if kind is None or kind_of(message) == kind]


def simplest(case: Case, kind: str, size: int, seconds: float) -> Case:
    """The simplest case found within some seconds that still has a disagreement of this kind."""
    end, improved = time.monotonic() + seconds, True
    while improved:
        improved = False
        for other in simpler(case):
            if time.monotonic() > end:
                return case
            if is_small(other, size) and found_in(other, kind):
                case, improved = other, True
                break
    return case


def is_small(case: Case, size: int) -> bool:
    try:
        return all(oracle.Space(case.arch, x, case.constraints).pruned_size(size) <= size for x in case.layers)
    except ValueError:  # the constraints cannot be met
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which cases to draw (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default %(default)s)")
    parser.add_argument("--size", type=int, default=1000, help="mappings per space at most (default %(default)s)")
    parser.add_argument(
        "--simplify", type=float, default=60.0, help="seconds spent on the first case of a kind (default %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="try one small case")
    args = parser.parse_args()
    if args.quick:
        args.size = 60
    end, tried, agreeing = time.monotonic() + 60 * args.minutes, 0, 0
    kinds: Counter[str] = Counter()
    while time.monotonic() < end and not (args.quick and tried):
        number = args.first + tried
        case = draw(random.Random(f"{args.seed}/{number}"), size=args.size)
        messages = found_in(case)
        tried, agreeing = tried + 1, agreeing + (not messages)
        if messages:
            print(f"--- case {number} of seed {args.seed}", case, *messages, sep="\n", flush=True)
        for kind in dict.fromkeys(map(kind_of, messages)):
            kinds[kind] += 1
            if kinds[kind] == 1 and args.simplify:
                least = simplest(case, kind, args.size, args.simplify)
                print(f"--- simplest with '{kind}'", least, *found_in(least, kind), sep="\n", flush=True)
        if tried % CASES_PER_CACHE == 0:
            jax.clear_caches()
    for kind, times in kinds.most_common():
        print(f"{times} cases: {kind}")
    print(f"{agreeing} of {tried} cases agree")
    return agreeing < tried


if __name__ == "__main__":
    sys.exit(main())
