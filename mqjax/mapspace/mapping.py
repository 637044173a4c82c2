"""Mappings as records (Timeloop's nested loops, what users read and write) and as arrays (what is evaluated).

A record is a list with one entry per storage level: `{"level": name, "temporal": [[dim, bound], ...],
"spatial": [[dim, bound, "X" | "Y"], ...], "keep": [tensor, ...]}`, loops listed outer to inner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError, meant
from mqjax.projection import DIMS, names_of
from mqjax.types import BOUND_MOST, TENSORS, Layer

Record = Sequence[Mapping[str, Any]]

_AXES = ("X", "Y")

LOOPS_MOST = 1000
"""Of one level: more are a mistake, and would make every array of the batch as long."""


class Mappings(NamedTuple):
    """A batch of mappings. Axes: B mappings, L levels (inner to outer), K loop slots (inner to outer, padded with
    loops of bound 1), T = 3 tensors in the order of `TENSORS`."""

    temporal_dim: np.ndarray  # int32 [B, L, K], index into `Layer.loops`
    temporal_bound: np.ndarray  # int64 [B, L, K]
    spatial_dim: np.ndarray  # int32 [B, L, K]
    spatial_bound: np.ndarray  # int64 [B, L, K]
    spatial_axis: np.ndarray  # int32 [B, L, K], 0 = X, 1 = Y
    keep: np.ndarray  # bool [B, L, T]

    def __len__(self) -> int:
        return self.keep.shape[0]

    @staticmethod
    def empty(size: int, depth: int, slots: int = len(DIMS)) -> Mappings:
        """`size` mappings without loops, on `depth` levels that keep nothing."""
        shape = (size, depth, slots)
        return Mappings(
            temporal_dim=np.zeros(shape, np.int32),
            temporal_bound=np.ones(shape, np.int64),
            spatial_dim=np.zeros(shape, np.int32),
            spatial_bound=np.ones(shape, np.int64),
            spatial_axis=np.zeros(shape, np.int32),
            keep=np.zeros((size, depth, len(TENSORS)), bool),
        )

    def take(self, rows: Any) -> Mappings:
        """The mappings at `rows` (anything that indexes axis B and keeps it)."""
        return Mappings(*(array[rows] for array in self))


def encode(arch: Arch, layers: Sequence[Layer], records: Sequence[Record]) -> Mappings:
    """Arrays of `records`, one per layer of `layers`. Raises `InputError` where a mapping does not fit its layer."""
    for layer, record in zip(layers, records, strict=True):
        _check_form(layer, record)
    batch, depth = len(records), len(arch.levels)
    slots = max(
        [
            len(DIMS),
            *(len(layer.loops) for layer in layers),
            *(len(entry.get(k, ())) for r in records for entry in r for k in ("temporal", "spatial")),
        ]
    )
    arrays = Mappings.empty(batch, depth, slots)
    for row, (layer, record) in enumerate(zip(layers, records, strict=True)):
        _encode_one(arch, layer, record, arrays, row)
    return arrays


def _check_form(layer: Layer, record: Any) -> None:
    """Raise `InputError` where a record is not made of lists and mappings as the module describes."""
    where = f"layer {layer.name!r}"
    if not isinstance(record, (list, tuple)):
        raise InputError(f"{where}: a mapping must be a list with one object per level, not {record!r:.60}")
    for entry in record:
        if not isinstance(entry, Mapping):
            raise InputError(
                f"{where}: each level of the mapping must be an object with the key level, not {entry!r:.60}"
            )
        for kind in ("temporal", "spatial"):
            loops = entry.get(kind, ())
            if not isinstance(loops, (list, tuple)) or len(loops) > LOOPS_MOST:
                raise InputError(f"{where}: {kind} must be a list of at most {LOOPS_MOST} loops, not {loops!r:.60}")
        keep = entry.get("keep")
        if keep is not None and not (isinstance(keep, (list, tuple)) and all(isinstance(t, str) for t in keep)):
            raise InputError(f"{where}: keep must be a list out of {', '.join(TENSORS)}, not {keep!r:.60}")


def _encode_one(arch: Arch, layer: Layer, record: Record, arrays: Mappings, row: int) -> None:
    letters = layer.letters
    products: dict[str | None, int] = dict.fromkeys(letters, 1)
    seen: set[str] = set()
    for entry in record:
        name = entry.get("level")
        if name not in arch.level_names:
            raise InputError(
                f"layer {layer.name!r}: the mapping names the unknown level {name!r:.60}; "
                f"levels of {arch.name!r} are {', '.join(arch.level_names)}{meant(name, arch.level_names)}"
            )
        if name in seen:
            raise InputError(f"layer {layer.name!r}: the mapping has the level {name!r} twice")
        seen.add(name)
        level = arch.level_names.index(name)
        for slot, loop in enumerate(reversed(entry.get("temporal", ()))):
            dim, bound = _check_loop(layer, name, loop, 2)
            arrays.temporal_dim[row, level, slot] = letters.index(dim)
            arrays.temporal_bound[row, level, slot] = bound
            products[dim] *= bound
        for slot, loop in enumerate(reversed(entry.get("spatial", ()))):
            dim, bound = _check_loop(layer, name, loop, 3)
            if loop[2] not in _AXES:
                raise InputError(
                    f"layer {layer.name!r}: a spatial loop of {name} lies on X or Y, not on {loop[2]!r:.60}"
                )
            arrays.spatial_dim[row, level, slot] = letters.index(dim)
            arrays.spatial_bound[row, level, slot] = bound
            arrays.spatial_axis[row, level, slot] = _AXES.index(loop[2])
            products[dim] *= bound
        arrays.keep[row, level] = _keep_flags(layer, name, entry.get("keep"), arch.levels[level].keep)
    _check_whole(arch, layer, products, seen, arrays.keep[row, -1])


def _check_loop(layer: Layer, level: str, loop: Any, length: int) -> tuple[str, int]:
    form = "[dimension, bound]" if length == 2 else '[dimension, bound, "X" or "Y"]'
    if not isinstance(loop, (list, tuple)) or len(loop) != length:
        raise InputError(f"layer {layer.name!r}: a loop of {level} must have the form {form}, not {loop!r:.60}")
    dim, bound = loop[:2]
    names = list(filter(None, layer.letters))
    if dim not in names:
        raise InputError(
            f"layer {layer.name!r}: {level} loops over the unknown dimension {dim!r:.60}; use {' '.join(names)}"
        )
    if isinstance(bound, bool) or not isinstance(bound, int) or not 1 <= bound <= BOUND_MOST:
        raise InputError(
            f"layer {layer.name!r}: the {dim} loop of {level} needs a positive integer bound, not {bound!r:.60}"
        )
    return dim, bound


def _keep_flags(layer: Layer, level: str, keep: Any, default: tuple[bool, ...]) -> list[bool]:
    if keep is None:
        return list(default)
    unknown = [tensor for tensor in keep if tensor not in TENSORS]
    if unknown:
        raise InputError(
            f"layer {layer.name!r}: {level} keeps the unknown tensor {unknown[0]!r:.60}; use {', '.join(TENSORS)}{meant(unknown[0], TENSORS)}"
        )
    return [tensor in keep for tensor in TENSORS]


def _check_whole(
    arch: Arch, layer: Layer, products: dict[str | None, int], seen: set[str], outer_keep: np.ndarray
) -> None:
    missing = [name for name in arch.level_names if name not in seen]
    if missing:
        raise InputError(f"layer {layer.name!r}: the mapping lacks the level {missing[0]!r}")
    for dim, bound in zip(layer.letters, layer.bounds, strict=True):
        if dim is not None and products[dim] != bound:
            raise InputError(
                f"layer {layer.name!r}: the factors of {dim} in the mapping multiply to {products[dim]}, not to the bound {bound}"
            )
    if not outer_keep.all():
        raise InputError(f"layer {layer.name!r}: the outermost level {arch.level_names[-1]} must keep all tensors")


def decode(arch: Arch, layer: Layer, mappings: Mappings, row: int) -> list[dict[str, Any]]:
    """Mapping `row` of a batch, of `layer`, as a record."""
    record, letters = [], layer.letters
    for level, name in enumerate(arch.level_names):
        temporal = zip(mappings.temporal_dim[row, level], mappings.temporal_bound[row, level], strict=True)
        spatial = zip(
            mappings.spatial_dim[row, level],
            mappings.spatial_bound[row, level],
            mappings.spatial_axis[row, level],
            strict=True,
        )
        has_fanout = arch.fanout[level] != (1, 1)
        record.append(
            {
                "level": name,
                "temporal": [[letters[d], int(n)] for d, n in temporal if letters[d]][::-1],
                "spatial": [[letters[d], int(n), _AXES[a]] for d, n, a in spatial if letters[d]][::-1]
                if has_fanout
                else [],
                "keep": [t for t, kept in zip(TENSORS, mappings.keep[row, level], strict=True) if kept],
            }
        )
    return record


def mapped_bounds(record: Record) -> dict[str, int]:
    """The bound of every dimension, by name, that a mapping record has: the product of its loops."""
    loops = [loop for entry in record for kind in ("temporal", "spatial") for loop in entry[kind]]
    bounds = dict.fromkeys(names_of({loop[0] for loop in loops}), 1)
    for dim, bound, *_ in loops:
        bounds[dim] *= bound
    return bounds


def mapped_layer(layer: Layer, record: Record) -> Layer:
    """`layer` with the bounds that a mapping record has."""
    dims = {**layer.dims, **dict.fromkeys(layer.projection.named, 1)}
    bounds = {dim: bound for dim, bound in mapped_bounds(record).items() if dim in dims}
    return Layer.from_dims({**dims, **bounds}, shape=layer.shape, name=layer.name)
