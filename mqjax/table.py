"""Cost tables: the optimum of every unique layer of a network for every bit-width triple, kept on disk by content."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gzip
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.mapspace import Mapspace
from mqjax.optimum import solve
from mqjax.sweep import METRICS
from mqjax.types import WIDTHS, BitWidths, Layer, all_widths

MODEL_VERSION = 1
"""Raised whenever the model, or what a cached table holds, changes: older cache files are then ignored."""

_GRID = (len(WIDTHS),) * 3


@dataclasses.dataclass(frozen=True)
class LayerTable:
    """Optima of one layer. Axes: metric (in the order of `METRICS`), then the 343 width triples I, W, O of `WIDTHS` in
    C order, then the native triple: 344 entries.

    energy_pj (pJ) and cycles of the optimum by each metric; index: its place in `mappings`, -1 where nothing fits;
    valid: mappings of the pruned space that fit. sizes: "nominal", "pruned", "distinct". covered: whether every mapping
    of the space was accounted for, so that the optima are proven.
    """

    energy_pj: np.ndarray  # float64 [3, 344]
    cycles: np.ndarray  # int64 [3, 344]
    index: np.ndarray  # int64 [3, 344]
    valid: np.ndarray  # int64 [344]
    mappings: list[list[dict[str, Any]]]
    sizes: dict[str, int]
    covered: bool

    def value(self, metric: str) -> np.ndarray:
        """The optimum itself, float64 [344]: pJ, pJ * cycles or cycles."""
        m = _metric(metric)
        energy, cycles = self.energy_pj[m], np.where(self.index[m] < 0, np.inf, self.cycles[m])
        return {"energy": energy, "edp": energy * cycles, "delay": cycles}[metric]


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Optimal costs of a network's layers. Axes I, W, O index the bit-widths `WIDTHS` (2..8) of Inputs, Weights
    and Outputs; U indexes the unique layers; L all layers of the network.

    best: metric -> float64 [U, I, W, O]: the least energy (pJ), EDP (pJ * cycles) or delay (cycles) of any mapping.
    """

    arch: str
    layers: tuple[Layer, ...]
    unique: tuple[Layer, ...]
    index: np.ndarray  # int [L] -> U
    best: dict[str, np.ndarray]
    tables: tuple[LayerTable, ...] = ()

    widths = WIDTHS

    def mapping(self, metric: str, layer: int, bits: BitWidths) -> list[dict[str, Any]]:
        """The mapping, as a record, that is optimal by `metric` for layer number `layer` of the network."""
        table = self.tables[self.index[layer]]
        place = table.index[_metric(metric), entry_of(bits)]
        if place < 0:
            raise InputError(f"layer {self.layers[layer].name!r}: no mapping fits {self.arch!r} at bit-widths {bits}")
        return table.mappings[place]

    @cached_property
    def covered(self) -> bool:
        """Whether all optima are proven."""
        return all(table.covered for table in self.tables)


def entry_of(bits: BitWidths) -> int:
    """Position of a width triple in a `LayerTable`; the last one is native."""
    if bits == BitWidths():
        return len(WIDTHS) ** 3
    widths = (bits.inputs, bits.weights, bits.outputs)
    if not all(width in WIDTHS for width in widths):
        raise InputError(f"a table has the widths {WIDTHS[0]}..{WIDTHS[-1]} and native, not {bits}")
    return int(np.ravel_multi_index([WIDTHS.index(width) for width in widths if width is not None], _GRID))


def _metric(name: str) -> int:
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; it must be one of {', '.join(METRICS)}")
    return METRICS.index(name)


def cost_table(
    arch: Arch,
    layers: Sequence[Layer],
    *,
    constraints: str = "paper",
    cache: Path | None = None,
    progress: Callable[[Layer], None] | None = None,
) -> CostTable:
    """Optima of every unique layer by every metric, for all 343 width triples and native; whole space, proven.

    cache: a folder where tables are kept by content (see `mqjax.io.files.cache_folder`); `None` computes afresh.
    progress: called after each unique layer.
    """
    unique = tuple(dict.fromkeys(layers))
    tables = []
    # While one layer's factor tables are joined on the host, another's mappings are swept.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = pool.map(lambda layer: layer_table(arch, layer, constraints=constraints, cache=cache), unique)
        for layer, table in zip(unique, pending, strict=True):
            tables.append(table)
            if progress is not None:
                progress(layer)
    best = {metric: np.stack([table.value(metric)[:-1].reshape(_GRID) for table in tables]) for metric in METRICS}
    index = np.array([unique.index(layer) for layer in layers])
    return CostTable(arch.name, tuple(layers), unique, index, best, tuple(tables))


def layer_table(arch: Arch, layer: Layer, *, constraints: str = "paper", cache: Path | None = None) -> LayerTable:
    """Optima of one layer for all 343 width triples and native, from the cache if it is there."""
    path = None if cache is None else Path(cache) / "tables" / f"{_key(arch, layer, constraints)}.json.gz"
    if path is not None and path.exists():
        stored = _load(path)
        if stored is not None:
            return stored
    space = Mapspace(arch, layer, constraints=constraints)
    # A width above the word of a level is an error of the model; such triples of a table simply do not fit.
    packed, native = solve(space, all_widths()), solve(space, [BitWidths()])
    mappings = [*packed.mappings, *native.mappings]
    shifted = np.where(native.index < 0, -1, native.index + len(packed.mappings))
    table = LayerTable(
        energy_pj=np.concatenate([packed.energy_pj, native.energy_pj], axis=1),
        cycles=np.concatenate([packed.cycles, native.cycles], axis=1),
        index=np.concatenate([packed.index, shifted], axis=1),
        valid=np.concatenate([packed.valid, native.valid]),
        mappings=mappings,
        sizes={"nominal": space.size, "pruned": space.pruned_size, "distinct": space.distinct},
        covered=packed.covered and native.covered,
    )
    if path is not None:
        _save(path, table)
    return table


def _key(arch: Arch, layer: Layer, constraints: str) -> str:
    """A digest of all that a table depends on: the accelerator by value, the layer's shape, constraints, the model."""
    content = (MODEL_VERSION, dataclasses.replace(arch, name=""), layer.dims, layer.shape, constraints)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def write_table(path: Path, table: CostTable) -> None:
    """Write a whole table as JSON: unique layers with their costs, mappings and counts (axes as in `LayerTable`)."""
    layers = [
        {"name": layer.name, "dims": layer.dims, "shape": layer.shape, **_plain(entries)}
        for layer, entries in zip(table.unique, table.tables, strict=True)
    ]
    bits = [*map(str, all_widths()), "native"]
    names = [layer.name for layer in table.layers]
    content = {"arch": table.arch, "metrics": METRICS, "bits": bits, "network": names, "index": table.index.tolist()}
    text = json.dumps({**content, "layers": layers}).encode()
    write_atomically(path, gzip.compress(text, 6, mtime=0) if path.suffix == ".gz" else text)


def _plain(table: LayerTable) -> dict[str, Any]:
    arrays = {name: getattr(table, name).tolist() for name in _ARRAYS}
    for name in ("energy_pj", "cycles"):
        # JSON knows no infinity; an index of -1 says that nothing fits.
        arrays[name] = [[None if value == np.inf else value for value in row] for row in arrays[name]]
    return {**arrays, "mappings": table.mappings, "sizes": table.sizes, "covered": table.covered}


_ARRAYS = {"energy_pj": np.float64, "cycles": np.int64, "index": np.int64, "valid": np.int64}


def _save(path: Path, table: LayerTable) -> None:
    content = {name: getattr(table, name).tolist() for name in _ARRAYS}
    text = json.dumps({**content, "mappings": table.mappings, "sizes": table.sizes, "covered": table.covered})
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(path, gzip.compress(f"{digest}\n{text}".encode(), 6, mtime=0))


def _load(path: Path) -> LayerTable | None:
    """The table in a cache file, or `None`, with a warning, where the file is torn or not ours."""
    try:
        digest, text = gzip.decompress(path.read_bytes()).decode().split("\n", 1)
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ValueError("its checksum does not match")
        content = json.loads(text)
        arrays = {name: np.array(content.pop(name), dtype) for name, dtype in _ARRAYS.items()}
        return LayerTable(**arrays, **content)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        warnings.warn(f"cached table {path} is damaged ({error}); computing it again", stacklevel=3)
        return None
