"""Run folders: what a search leaves behind, for people and for programs.

config.json (settings, versions, device), population/ (checkpoints), evaluated.csv, front.csv, front.json, mappings/
(Timeloop map YAML of every layer of every front member); figures/ and report.html are added by `mqjax.show.report`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.io.records import evaluate_records
from mqjax.io.timeloop import write_mapping
from mqjax.mapper.table import CostTable, entry_of
from mqjax.mapspace.mapping import mapped_bounds, mapped_layer
from mqjax.mapspace.padding import mapped_as, padding_of
from mqjax.network.cost import layer_widths, network_cost
from mqjax.network.wiring import Wiring
from mqjax.objectives import OBJECTIVES, mapping_metric
from mqjax.study.bitsearch import SearchResult
from mqjax.study.pareto import hypervolume
from mqjax.study.rehearsal import Rehearsed
from mqjax.study.stored import read_config
from mqjax.study.surrogate import Surrogate
from mqjax.study.worth import worth
from mqjax.types import BitWidths


def check_free(folder: Path) -> None:
    """Raise `InputError` where `folder` holds anything."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"the run folder {folder} is not empty; choose another one, or continue it with --resume {folder}"
        )


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Begin a run in `folder`: write its config.json. Raises `InputError` where the folder holds anything."""
    check_free(folder)
    write_json(Path(folder) / "config.json", {"settings": settings, **environment()})


def environment() -> dict[str, Any]:
    """Versions and device that a result depends on."""
    packages = ("mqjax", "jax", "jaxlib", "flax", "evosax", "numpy")
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "device": {"kind": device.device_kind, "platform": device.platform, "count": jax.device_count()},
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run. Raises `InputError` where `folder` holds none."""
    return read_config(folder)["settings"]


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def describe(
    arch: Arch,
    table: CostTable,
    result: SearchResult,
    *,
    wiring: Wiring | None = None,
    test_accuracy: Callable[[np.ndarray], np.ndarray] | None = None,
    map_by: str | None = None,
    surrogate: Surrogate | None = None,
    rehearsed: Rehearsed | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of front.json: front members, uniform assignments and the unpacked network, with costs by layer and
    level, each layer on the mapping that the search priced (`map_by`). test_accuracy maps genomes, as
    those of `result`, to [N]. wiring, surrogate, rehearsed: as for `search`.
    """
    wiring = Wiring.chain(table.layers) if wiring is None else wiring
    positions = {w: at for w, at in result.uniform().items() if np.isfinite(result.objectives[at]).all()}
    uniform = {width: result.genomes[at] for width, at in positions.items()}
    members = result.genomes[result.front]
    metric = mapping_metric(result.names, map_by)
    breakdown = _Breakdown(arch, table, metric)
    # Those of the mappings come with their layers.
    totals = {o.name: o.total for o in OBJECTIVES.values() if o.total is not None and not o.mapped}
    tests = None
    if test_accuracy is not None:
        tests = test_accuracy(np.stack([*members, *uniform.values()]))

    def entry(tag: dict[str, Any], genome: np.ndarray, values: np.ndarray, number: int) -> dict[str, Any]:
        test = {} if tests is None else {"test_accuracy": float(tests[number])}
        objectives = dict(zip(result.names, map(float, values), strict=True))
        costs = network_cost(table, genome[None], list(totals), wiring=wiring)[0]
        return {
            **tag,
            "objectives": objectives,
            **test,
            **dict(zip(totals.values(), map(float, costs), strict=True)),
            **breakdown.of(layer_widths(genome, wiring)),
        }

    return {
        "arch": arch.name,
        "objectives": {name: OBJECTIVES[name].unit for name in result.names},
        "metric": metric,
        "layers": [layer.name for layer in table.layers],
        "members": [
            {**entry({"id": i}, genome, result.objectives[at], i), "generation": int(result.generation[at])}
            for i, (at, genome) in enumerate(zip(result.front, members, strict=True))
        ],
        "uniform": [
            entry({"width": width}, genome, result.objectives[positions[width]], len(members) + i)
            for i, (width, genome) in enumerate(uniform.items())
        ],
        "native": breakdown.of([BitWidths()] * len(table.layers)) if breakdown.fits(BitWidths()) else None,
        "history": _history(result),
        **({} if surrogate is None else {"surrogate": worth(surrogate, result, rehearsed)}),
        "evaluations": len(result.genomes),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "mapspace": _mapspace(table),
        **(about or {}),
    }


class _Breakdown:
    """Costs by layer and level; each (layer, widths) is evaluated once."""

    def __init__(self, arch: Arch, table: CostTable, metric: str) -> None:
        self._arch, self._table, self._metric = arch, table, metric
        self._known: dict[tuple[int, BitWidths], dict[str, Any]] = {}

    def fits(self, bits: BitWidths) -> bool:
        """Whether every layer has a mapping at these widths."""
        return all(np.isfinite(layer.value(self._metric)[entry_of(bits)]) for layer in self._table.tables)

    def of(self, bits: Sequence[BitWidths]) -> dict[str, Any]:
        """Totals and layers of the network with these widths per layer."""
        keys = [(int(u), widths) for u, widths in zip(self._table.index, bits, strict=True)]
        self._evaluate([key for key in dict.fromkeys(keys) if key not in self._known])
        layers = [{"name": layer.name, **self._known[key]} for layer, key in zip(self._table.layers, keys, strict=True)]
        return {
            "energy_pj": sum(layer["energy_pj"] for layer in layers),
            "cycles": sum(layer["cycles"] for layer in layers),
            "layers": layers,
        }

    def _evaluate(self, keys: list[tuple[int, BitWidths]]) -> None:
        records = []
        for u, widths in keys:
            layer = self._table.unique[u]
            mapping = self._table.mapping(self._metric, int(np.flatnonzero(self._table.index == u)[0]), widths)
            bits = {"Inputs": widths.inputs, "Weights": widths.weights, "Outputs": widths.outputs}
            records.append(
                {
                    "dims": {**layer.dims, **mapped_bounds(mapping)},
                    "shape": layer.shape,
                    "bitwidths": None if widths == BitWidths() else bits,
                    "mapping": mapping,
                }
            )
        for key, record in zip(keys, evaluate_records(self._arch, records), strict=True):
            stats, layer = record["stats"], self._table.unique[key[0]]
            levels = {name: level["energy_total_pJ"] for name, level in stats["levels"].items()}
            self._known[key] = {
                "bits": str(key[1]),
                "energy_pj": stats["totals"]["energy_pJ"],
                "cycles": stats["totals"]["cycles"],
                "level_pj": {self._arch.mac.name: stats["mac"]["energy_pJ"], **levels},
                "mapped_as": mapped_as(layer, mapped_layer(layer, record["mapping"])),
                "mapping": record["mapping"],
            }


def _history(result: SearchResult) -> list[dict[str, Any]]:
    """Hypervolume after each generation, as a share of the box that the uniform assignments span."""
    objectives = result.objectives
    finite = np.isfinite(objectives).all(axis=1)
    corners = objectives[sorted(result.uniform().values())]
    corners = corners[np.isfinite(corners).all(axis=1)]
    if not len(corners):
        return []
    low, high = np.zeros(objectives.shape[1]), corners.max(axis=0)
    scaled = (objectives - low) / np.where(high > low, high - low, 1.0)
    history = []
    for generation in range(int(result.generation.max()) + 1):
        seen = finite & (result.generation <= generation)
        volume = hypervolume(scaled[seen], np.ones(scaled.shape[1]))
        history.append({"generation": generation, "evaluations": int(seen.sum()), "hypervolume": volume})
    return history


def _mapspace(table: CostTable) -> dict[str, Any]:
    """How much of the mapspaces the optima are proven over."""
    names = ("nominal", "pruned", "evaluated")
    sizes = {name: sum(layer.sizes[name] for layer in table.tables) for name in names}
    larger = zip(
        table.unique, (padding_of(u, t.mappings) for u, t in zip(table.unique, table.tables, strict=True)), strict=True
    )
    padded = {layer.name: text for layer, text in larger if text}
    return {"unique_layers": len(table.unique), **sizes, "covered": table.covered, "padded": padded}


def write_run(folder: Path, document: dict[str, Any], result: SearchResult) -> None:
    """Write front.json, front.csv, evaluated.csv and the mappings of a finished search into its folder."""
    folder = Path(folder)
    for member in document["members"]:
        for number, layer in enumerate(member["layers"], start=1):
            path = Path("mappings") / f"member_{member['id']:03d}" / f"{number:02d}_{layer['name']}.yaml"
            larger = ", ".join(f"{d} mapped as {bound}" for d, bound in layer["mapped_as"].items())
            write_mapping(folder / path, layer["mapping"], note=f"padded: {larger}" if larger else "")
            layer["mapping_file"] = str(path)
    write_atomically(folder / "front.csv", _front_csv(document))
    write_atomically(folder / "evaluated.csv", _evaluated_csv(result))
    # Last, since a reader takes it as the sign that the run is finished.
    write_json(folder / "front.json", document)


def _front_csv(document: dict[str, Any]) -> str:
    columns = [f"{name} ({unit})" for name, unit in document["objectives"].items()]
    first = next(iter(document["members"]), {})
    tested = [name for name in ("test_accuracy", "retrained_accuracy") if name in first]
    rows = [["id", *columns, *tested, *document["layers"]]]
    for member in document["members"]:
        test = [member[name] for name in tested]
        widths = [layer["bits"] for layer in member["layers"]]
        rows.append([member["id"], *member["objectives"].values(), *test, *widths])
    return _csv(rows)


def _evaluated_csv(result: SearchResult) -> str:
    rows: list[list[Any]] = [["generation", *result.names, "genome"]]
    for generation, values, genome in zip(result.generation, result.objectives, result.genomes, strict=True):
        # Widths are single digits: in a chain, input and weight width of every layer in turn.
        rows.append([int(generation), *map(float, values), "".join(map(str, genome.ravel()))])
    return _csv(rows)


def _csv(rows: list[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def read_evaluated(folder: Path) -> dict[str, np.ndarray]:
    """Columns of evaluated.csv but the genomes: "generation" and each objective, float64 [E]. Raises `InputError` naming
    the file where it is missing or damaged."""
    path = Path(folder) / "evaluated.csv"
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text()), strict=True))
        names = [name for name in rows[0] if name != "genome"]
        return {name: np.array([float(row[name]) for row in rows]) for name in names}
    except FileNotFoundError:
        raise InputError(f"{folder} is not a finished search run: it has no evaluated.csv") from None
    except (OSError, ValueError, TypeError, IndexError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200] or 'a line is torn'}") from None
