"""Cost tables: the optimum of every unique layer of a network for every bit-width triple, kept on disk by content."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import gzip
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.mapper.best import paper_bounds, solve_layer
from mqjax.mapper.decision import Decision
from mqjax.mapper.hosts import gather
from mqjax.mapper.optima import Optima, Solution, metric_number
from mqjax.mapper.optimum import Share, decide
from mqjax.mapper.workers import side_by_side
from mqjax.mapspace.mapping import mapped_layer
from mqjax.mapspace.padding import mapped_as, padded_or_itself
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Part, Progress
from mqjax.types import METRICS, SECONDS, UNPACKED, WIDTHS, BitWidths, Layer, all_widths

MODEL_VERSION = 6
"""Raised whenever the model, or what a cached table holds, changes: older cache files are then ignored."""

_GRID = (len(WIDTHS),) * 3
_BITS = [*all_widths(), BitWidths()]


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Optimal costs of a network's layers. Axes I, W, O index the bit-widths `WIDTHS` (2..8) of Inputs, Weights
    and Outputs; U indexes the unique layers; L all layers of the network.

    best: metric -> float64 [U, I, W, O]: the least energy (pJ), EDP (pJ * cycles) or delay (cycles) of any mapping.
    tables: the same with mappings, at the 343 width triples of `WIDTHS` (I, W, O in C order) and, last, unpacked.
    """

    arch: str
    layers: tuple[Layer, ...]
    unique: tuple[Layer, ...]
    index: np.ndarray  # int [L] -> U
    best: dict[str, np.ndarray]
    tables: tuple[Optima, ...] = ()
    area_um2: float | None = None  # of the whole accelerator

    widths = WIDTHS

    def costs(self, metric: str, by: str) -> np.ndarray:
        """What `metric` is on each layer's mapping that is optimal by the metric `by`, float64 [U, I, W, O]; inf where
        nothing fits."""
        if metric == by:
            return self.best[metric]
        return np.stack([table.value(metric, by=by)[:-1].reshape(_GRID) for table in self.tables])

    def mapping(self, metric: str, layer: int, bits: BitWidths) -> list[dict[str, Any]]:
        """The mapping, as a record, that is optimal by `metric` for layer number `layer` of the network."""
        table = self.tables[self.index[layer]]
        place = table.index[metric_number(metric), entry_of(bits)]
        if place < 0:
            raise InputError(f"layer {self.layers[layer].name!r}: no mapping fits {self.arch!r} at bit-widths {bits}")
        return table.mappings[place]

    @cached_property
    def covered(self) -> bool:
        """Whether all optima are proven."""
        return all(table.covered for table in self.tables)


def entry_of(bits: BitWidths) -> int:
    """Position of a width triple in a table of all; the last one is unpacked."""
    if bits == BitWidths():
        return len(WIDTHS) ** 3
    widths = (bits.inputs, bits.weights, bits.outputs)
    if not all(width in WIDTHS for width in widths):
        raise InputError(
            f"a table has the widths {WIDTHS[0]}..{WIDTHS[-1]} and unpacked operands ({UNPACKED}), not {bits}"
        )
    return int(np.ravel_multi_index([WIDTHS.index(width) for width in widths if width is not None], _GRID))


def cost_table(
    arch: Arch,
    layers: Sequence[Layer],
    *,
    constraints: str = "paper",
    pad: int | None = 0,
    seconds: float = SECONDS,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> CostTable:
    """Optima of every unique layer by every metric, for all 343 width triples and unpacked operands; whole space, proven unless
    the table's `covered` says otherwise.

    constraints, pad, seconds: see `mqjax.mapper.best.solve_layer`.
    cache: a folder where tables are kept by content (see `mqjax.io.files.cache_folder`); `None` computes afresh.
    progress: advanced after each unique layer. Where several processes run (`mqjax.mapper.hosts`), all must call this
    alike; they share the work, and each returns the whole table.
    """
    unique = tuple(dict.fromkeys(layers))
    options = _Options(arch, constraints, pad, seconds, cache)
    compute = _shared_tables if jax.process_count() > 1 else _tables
    tables = []
    for table in compute(options, unique, progress):
        tables.append(table)
        progress.advance()
    best = {metric: np.stack([table.value(metric)[:-1].reshape(_GRID) for table in tables]) for metric in METRICS}
    index = np.array([unique.index(layer) for layer in layers])
    return CostTable(arch.name, tuple(layers), unique, index, best, tuple(tables), arch.area_um2)


@dataclasses.dataclass(frozen=True)
class _Options:
    """What is tabulated, and where it is kept; see `cost_table`."""

    arch: Arch
    constraints: str
    pad: int | None
    seconds: float
    cache: Path | None

    def path(self, layer: Layer) -> Path | None:
        """The cache file of a layer: a digest of all that its table depends on, the accelerator by value."""
        if self.cache is None:
            return None
        arch = dataclasses.replace(self.arch, name="")
        content = (MODEL_VERSION, arch, layer.dims, layer.shape, self.constraints, self.pad or 0)
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
        return Path(self.cache) / "tables" / f"{digest}.json.gz"

    def stored(self, layer: Layer) -> Optima | None:
        """The cached table of a layer, if there is one that was not searched for a shorter time."""
        if self.pad is None:
            Mapspace(self.arch, layer, constraints=self.constraints).tables  # noqa: B018 - raises where it cannot be met
        table = _load(self.path(layer))
        return None if table is None or (table.seconds or math.inf) < self.seconds else table

    def save(self, layer: Layer, table: Optima) -> None:
        _save(self.path(layer), table)


def layer_table(
    arch: Arch,
    layer: Layer,
    *,
    constraints: str = "paper",
    pad: int | None = 0,
    seconds: float = SECONDS,
    cache: Path | None = None,
) -> Optima:
    """Optima of one layer for all 343 width triples and unpacked operands, from the cache if they are there; see `cost_table`."""
    return _one_table(_Options(arch, constraints, pad, seconds, cache), layer)


def _tables(options: _Options, layers: Sequence[Layer], progress: Progress) -> Iterator[Optima]:
    if options.constraints == "paper":
        # While one layer's factor tables are joined on the host, another's mappings are swept.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(lambda layer: _one_table(options, layer, progress), layers)
        return
    stored = [options.stored(layer) for layer in layers]
    missing = [layer for layer, table in zip(layers, stored, strict=True) if table is None]
    if missing:
        progress.say(f"{len(missing)} layers to be proven, as many at once as there are CPUs")
    proven = side_by_side(
        functools.partial(_computed, options), missing, here=lambda layer: _computed(options, layer, progress)
    )
    yield from (next(proven) if table is None else table for table in stored)


def _shared_tables(options: _Options, layers: Sequence[Layer], progress: Progress) -> list[Optima]:
    """Tables of which every process computes its share: each sweeps a part of every layer's space."""
    if options.pad:
        raise InputError("several processes share a table only without larger bounds to try; leave the padding at 0")
    stored = [options.stored(layer) for layer in layers]
    everywhere = np.all(gather([np.array([table is not None for table in stored])])[0], axis=0).tolist()
    share = Share(jax.process_index(), jax.process_count())

    def decided(layer: Layer) -> Decision:
        mapped = padded_or_itself(options.arch, layer, constraints=options.constraints, pad=options.pad)
        space = Mapspace(options.arch, mapped, constraints=options.constraints)
        return decide(space, _BITS, share=share, seconds=options.seconds, progress=Part(progress, layer.name))

    # Layers that are tried on several bounds are not shared: every process solves them whole.
    several = {
        layer for layer in layers if options.pad is not None and paper_bounds(options.arch, layer, options.constraints)
    }
    stored = [
        _one_table(options, x, progress) if x in several else table for x, table in zip(layers, stored, strict=True)
    ]
    missing = [x for x, known in zip(layers, everywhere, strict=True) if not known and x not in several]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        decisions = dict(zip(missing, pool.map(decided, missing), strict=True))
    if not decisions:
        return [table for table in stored if table is not None]
    parts = iter(gather([array for decision in decisions.values() for array in decision.arrays()]))
    tables = []
    for layer, table in zip(layers, stored, strict=True):
        if layer in decisions:
            of_layer = [next(parts) for _ in decisions[layer].arrays()]
            for other in set(range(share.count)) - {share.index}:
                decisions[layer].merge(*(part[other] for part in of_layer))
            table = _tabulated(decisions[layer].solution(), options.seconds)
            options.save(layer, table)
        assert table is not None
        tables.append(table)
    return tables


def _one_table(options: _Options, layer: Layer, progress: Progress = SILENT) -> Optima:
    """Optima of one layer for all 343 width triples and unpacked operands, from the cache if it is there."""
    table = options.stored(layer)
    return _computed(options, layer, progress) if table is None else table


def _computed(options: _Options, layer: Layer, progress: Progress = SILENT) -> Optima:
    """The same, computed afresh and kept."""
    solution = solve_layer(
        options.arch,
        layer,
        _BITS,
        constraints=options.constraints,
        pad=options.pad,
        seconds=options.seconds,
        progress=Part(progress, layer.name),
    )
    table = _tabulated(solution, options.seconds)
    options.save(layer, table)
    return table


def _tabulated(solution: Solution, seconds: float) -> Optima:
    """A solution without its layer and space, which the table's name and file know."""
    shared = {field.name: getattr(solution, field.name) for field in dataclasses.fields(Optima)}
    return Optima(**{**shared, "seconds": None if solution.covered else seconds})


def write_table(path: Path, table: CostTable) -> None:
    """Write a whole table as JSON: unique layers with their costs, mappings and counts (axes as in `Optima`); where
    mappings are of larger bounds than the layer's, `mapped_as` gives these for every mapping."""
    layers = []
    for layer, entries in zip(table.unique, table.tables, strict=True):
        layers.append({"name": layer.name, "dims": layer.dims, "shape": layer.shape, **_written_table(entries)})
        larger = [mapped_as(layer, mapped_layer(layer, mapping)) for mapping in entries.mappings]
        if any(larger):
            layers[-1]["mapped_as"] = larger
    bits = [*map(str, all_widths()), UNPACKED]
    names = [layer.name for layer in table.layers]
    content = {"arch": table.arch, "metrics": METRICS, "bits": bits, "network": names, "index": table.index.tolist()}
    text = json.dumps({**content, "layers": layers}).encode()
    write_atomically(path, gzip.compress(text, 6, mtime=0) if path.suffix == ".gz" else text)


def _written_table(table: Optima) -> dict[str, Any]:
    """The content of a layer's table; an index of -1 says that nothing fits, valid counts of -1 that none were made."""
    valid = np.full(len(table.bits), -1) if table.valid is None else table.valid
    return {
        # JSON knows no infinity.
        "energy_pj": [[None if value == np.inf else value for value in row] for row in table.energy_pj.tolist()],
        "cycles": table.cycles.tolist(),
        "index": table.index.tolist(),
        "valid": valid.tolist(),
        "mappings": table.mappings,
        "sizes": table.sizes,
        "covered": table.covered,
    }


def _save(path: Path | None, table: Optima) -> None:
    if path is None:
        return
    text = json.dumps({**_written_table(table), "seconds": table.seconds})
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(path, gzip.compress(f"{digest}\n{text}".encode(), 6, mtime=0))


def _load(path: Path | None) -> Optima | None:
    """The table in a cache file if there is one, or `None`, with a warning, where the file is torn or not ours."""
    if path is None or not path.exists():
        return None
    try:
        digest, text = gzip.decompress(path.read_bytes()).decode().split("\n", 1)
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ValueError("its checksum does not match")
        content = json.loads(text)
        energies = [[np.inf if value is None else value for value in row] for row in content["energy_pj"]]
        return Optima(
            bits=tuple(_BITS),
            energy_pj=np.array(energies, np.float64),
            cycles=np.array(content["cycles"], np.int64),
            index=np.array(content["index"], np.int64),
            valid=np.array(content["valid"], np.int64) if content["covered"] else None,
            mappings=content["mappings"],
            nominal_size=content["sizes"]["nominal"],
            pruned_size=content["sizes"]["pruned"],
            evaluated=content["sizes"]["evaluated"],
            covered=content["covered"],
            seconds=content["seconds"],
        )
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        warnings.warn(f"cached table {path} is damaged ({error}); computing it again", stacklevel=3)
        return None
