"""What the experiments of docs/experiments.md share: how they are run, and what each leaves under experiments/results/.

An experiment is a module with three functions. `measure(args)` returns tables, lists of rows by name, that are written as
CSV; `draw(tables)` makes figures, by name, and `describe(tables)` a section of the page. The latter two see only what the CSV
files hold, so that figures and page can be made again without measuring (`python experiments/paper.py`).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.models import NetworkSource, load_network
from mqjax.show.figures import STYLE, png

FOLDER = Path(__file__).parent / "results"
HEADLINE = Path(__file__).parents[1] / "benchmarks" / "headline.json"
"""What `experiments/headline.py` found."""

NETWORKS = {"mobilenetv1": "MobileNetV1", "mobilenetv2": "MobileNetV2"}
ARCHS = {"eyeriss": "Eyeriss", "simba": "Simba"}
TITLE = {"fontsize": 10.5, "loc": "left"}

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def run(
    module: ModuleType, options: Callable[[argparse.ArgumentParser], Any] | None = None, *, arguments: str = ""
) -> None:
    """The command line of an experiment: measures, then writes tables, figures and text into --out. options: adds those of
    its own to the parser. arguments: what the command that is noted beside the tables needs of them."""
    name = Path(str(module.__file__)).stem
    parser = argparse.ArgumentParser(
        description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog=f"{name}.py"
    )
    parser.add_argument("--quick", action="store_true", help="something small, to see that it runs")
    parser.add_argument("--out", type=Path, default=FOLDER / name, help="folder for tables, figures and text")
    if options is not None:
        options(parser)
    args = parser.parse_args()
    try:
        _run(module, f"python experiments/{name}.py {arguments}".rstrip(), args)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


def _run(module: ModuleType, command: str, args: argparse.Namespace) -> None:
    started = time.perf_counter()
    tables = module.measure(args)
    for table, rows in tables.items():
        write_atomically(args.out / f"{table}.csv", as_csv(rows))
    about = {
        "command": command,
        "seconds": round(time.perf_counter() - started),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    write_atomically(args.out / "about.json", json.dumps(about, indent=1) + "\n")
    publish(module, args.out)
    print(f"{args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}", file=sys.stderr)


def publish(module: ModuleType, folder: Path) -> str:
    """Figures and text of the tables in a folder, written beside them; the text."""
    tables = read(folder)
    with matplotlib.rc_context(STYLE):
        for name, figure in module.draw(tables).items():
            write_atomically(folder / f"{name}.png", png(figure))
    text = module.describe(tables)
    write_atomically(folder / "text.md", text)
    return text


def read(folder: Path) -> Tables:
    """The tables of a folder, by name. Raises `FileNotFoundError` where there are none."""
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no tables")
    return {path.stem: _rows(path.read_text()) for path in paths}


def as_csv(rows: Sequence[Row]) -> str:
    """Rows with the same keys; floats with seven digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.7g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


def _rows(text: str) -> list[Row]:
    return [{key: _value(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"": None, "True": True, "False": False}.get(text, text)


def where(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """The rows that hold these values."""
    return [row for row in rows if all(row[key] == value for key, value in keys.items())]


def only(rows: Iterable[Row], **keys: Any) -> Row:
    """The one row that holds these values."""
    (row,) = where(rows, **keys)
    return row


def values(rows: Iterable[Row], key: str) -> list[Any]:
    """The different values of a column, in order."""
    return list(dict.fromkeys(row[key] for row in rows))


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns after the first are set to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(share: float, digits: int = 1) -> str:
    """0.123 as "12.3 %"."""
    return f"{100 * share:.{digits}f} %"


def change(ratio: float, digits: int = 1) -> str:
    """What a ratio of 0.877 changes, "-12.3 %"."""
    return f"{100 * (ratio - 1):+.{digits}f} %"


def span(shares: Iterable[float], digits: int = 1) -> str:
    """The least and the largest of some shares, "12.3 to 45.6 %"."""
    ordered = sorted(shares)
    low, high = (f"{100 * share:.{digits}f}" for share in (ordered[0], ordered[-1]))
    return f"{low} %" if low == high else f"{low} to {high} %"


def pairs_of(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """The pairs (network, accelerator) of some rows, in order."""
    return list(dict.fromkeys((row["network"], row["arch"]) for row in rows))


def panels_of(pairs: Sequence[Any], size: tuple[float, float]) -> tuple[Figure, Sequence[Any]]:
    """A figure with a panel for each pair, two in a line. size: its width, and the height of a line, in inches."""
    lines = -(-len(pairs) // 2)
    figure = Figure(figsize=(size[0], size[1] * lines), layout="constrained")
    return figure, figure.subplots(lines, min(2, len(pairs)), squeeze=False).ravel()


def label_panels(panels: Sequence[Any], xlabel: str, ylabel: str = "") -> None:
    """Name the axes of the panels of a figure: below the last line and, where it is given, left of each."""
    for axes in panels[-2:]:
        axes.set_xlabel(xlabel)
    for axes in panels[::2] if ylabel else ():
        axes.set_ylabel(ylabel)


def pair_name(network: str, arch: str) -> str:
    return f"{NETWORKS[network]} on {ARCHS[arch]}"


def source(network: str, quick: bool) -> NetworkSource:
    """A network at 224x224 with 1,000 classes; if `quick`, a quarter as wide at 32x32 with ten."""
    if quick:
        return load_network(network, width_multiplier=0.25, resolution=32, classes=10, channels=1)
    return load_network(network)


def setting_genomes(wiring: Any, settings: dict[str, tuple[int, int]]) -> np.ndarray:
    """Genomes int [N, G] of settings (width of all stored tensors, width of all kernels)."""
    genomes = np.empty((len(settings), wiring.genes), int)
    for genome, (tensors, kernels) in zip(genomes, settings.values(), strict=True):
        genome[wiring.tensor_genes], genome[wiring.kernel_genes] = tensors, kernels
    return genomes
