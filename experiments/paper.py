"""Makes docs/experiments.md and its figures from the tables under experiments/results/, without measuring anything.

    python experiments/paper.py [--results experiments/results] [--page docs/experiments.md]

Each section comes from the experiment of the same name (see `common`), where its tables are there. Expected: ten seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
from pathlib import Path

from common import FOLDER, publish
from mqjax.io.files import write_atomically

SECTIONS = (
    "mappings",
    "bits",
    "published",
    "depthwise",
    "searches",
    "headline_bound",
    "search_methods",
    "macs",
    "constraint_cost",
    "energy_delay",
    "real_size",
    "speed",
)
"""Experiments in the order of the page."""

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"

HEAD = """# The paper's experiments

M. Klhufek, M. Safar, V. Mrazek, Z. Vasicek and L. Sekanina showed in *Exploring Quantization and Mapping Synergy in Hardware-Aware Deep Neural
Network Accelerators* (2024) that narrow operands save energy twice: fewer words move, and mappings fit that did not fit before. This
page repeats their experiments with proven optima instead of sampled mappings, corrects what does not hold, and says why. Every number is
taken from the tables linked below each section; `python experiments/paper.py` makes the page again from them.
"""


def page(results: Path, beside: Path) -> str:
    """The page's text, for a file in the folder `beside`; figures and texts of the experiments are written anew."""
    sections = [HEAD]
    for name in SECTIONS:
        folder = results / name
        if any(folder.glob("*.csv")):
            text = publish(importlib.import_module(name), folder)
            link = os.path.relpath(folder, beside)
            linked = re.sub(r"\]\(([\w-]+\.png)\)", rf"]({link}/\1)", text)
            sections += [f"{linked}\n{_origin(folder, link)}"]
    return "\n".join(sections)


def _origin(folder: Path, link: str) -> str:
    about = json.loads((folder / "about.json").read_text())
    tables = ", ".join(f"[{path.stem}]({link}/{path.name})" for path in sorted(folder.glob("*.csv")))
    device = f"{about['device']}, {about['cores']} cores, jax {about['jax']}"
    return f"Made by `{about['command']}` in {about['seconds']} s ({device}, costs and accuracies cached in part); tables: {tables}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    write_atomically(args.page, page(args.results.resolve(), args.page.parent.resolve()))


if __name__ == "__main__":
    main()
