"""Networks as lists of layers: our YAML and CSV, the rows of Timeloop's layer lists, and Timeloop's problem files.

YAML: a list, or the key `layers` with one, of mappings with the keys of `Layer.from_dims` (absent: 1), and name and shape; or of rows
W, H, C, N, M, S, R, Wpad, Hpad, Wstride, Hstride. CSV: a heading with those keys, one layer a line. A layer reads what the
one before it wrote.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mqjax.errors import InputError, unknown
from mqjax.io.documents import Document, read_document, read_text, shown
from mqjax.projection import LOOPS, PROJECTIONS, TENSORS
from mqjax.types import BOUND_MOST, SHAPES, Layer, layer_keys

ROW_KEYS = ("name", "shape", *dict.fromkeys(key for shape in SHAPES for key in layer_keys(shape)))
ROW = ("W", "H", "C", "N", "M", "S", "R", "Wpad", "Hpad", "Wstride", "Hstride")
LAYERS_MOST = 10_000

SHAPE_NAMES = {
    "cnn": "cnn",
    "cnn-layer": "cnn",
    "cnn_layer": "cnn",
    "conv": "cnn",
    "depthwise": "depthwise",
    "grouped": "grouped",
}
"""Timeloop's names of shapes, and ours."""


UNUSED = ("W", "H", "Wpad", "Hpad")
"""Keys of Timeloop's problems that follow from the others, or that its counts do not depend on."""


def read_layers(path: str | Path) -> list[Layer]:
    """The layers in a .yaml, .yml or .csv file. Raises `InputError` naming file, line and key."""
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return _from_csv(path)
    document = read_document(path)
    value = document.value
    if isinstance(value, dict) and "problem" in value:
        return [_problem(document, value["problem"])]
    loc: tuple[str | int, ...] = ()
    if isinstance(value, dict) and "layers" in value:
        loc, value = ("layers",), value["layers"]
    if not isinstance(value, list) or not value:
        raise document.error(loc, "a network file has a list of layers, the key layers with one, or Timeloop's problem")
    if len(value) > LAYERS_MOST:
        raise document.error(loc, f"{len(value)} layers are more than {LAYERS_MOST}")
    stem = Path(path).name.split(".")[0]
    return _named_apart(
        path, [_layer(document, (*loc, n), item, f"{stem}_layer{n + 1}") for n, item in enumerate(value)]
    )


def _named_apart(path: Path, layers: list[Layer]) -> list[Layer]:
    for name, times in Counter(layer.name for layer in layers).items():
        if times > 1:
            raise InputError(f"{path}: the layer {name!r} is given twice; names must differ")
    return layers


def _layer(document: Document, loc: tuple[str | int, ...], item: Any, name: str) -> Layer:
    if isinstance(item, list):
        return _listed_layer(document, loc, item, name)
    if not isinstance(item, dict):
        raise document.error(
            loc, f"a layer must be a mapping such as {{C: 3, M: 32, R: 3, S: 3, P: 112, Q: 112}}, not {shown(item)}"
        )
    for key in item:
        if key not in ROW_KEYS:
            raise document.error((*loc, str(key)), unknown("key", key, ROW_KEYS))
    given = item.get("name", name)
    if not isinstance(given, str) or not given.isprintable() or not 0 < len(given) <= 100 or "/" in given:
        raise document.error((*loc, "name"), f"must be a short text without slashes, not {shown(given)}")
    dims = {key: value for key, value in item.items() if key not in ("name", "shape")}
    return _made(document, loc, dims, item.get("shape", "cnn"), given)


def _listed_layer(document: Document, loc: tuple[str | int, ...], row: list[Any], name: str) -> Layer:
    """A row of Timeloop's layer lists, whose sizes are those of the input."""
    if len(row) != len(ROW):
        raise document.error(loc, f"a row has {len(ROW)} numbers ({', '.join(ROW)}), not {len(row)}")
    for number, (key, value) in enumerate(zip(ROW, row, strict=True)):
        least = 0 if key.endswith("pad") else 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= BOUND_MOST:
            raise document.error((*loc, number), f"{key} must be a whole number from {least}, not {shown(value)}")
    of: dict[str, int] = dict(zip(ROW, row, strict=True))
    dims = {key: of[key] for key in ("C", "N", "M", "S", "R", "Wstride", "Hstride")}
    for extent, kernel, side in (("W", "R", "W"), ("H", "S", "H")):
        reach = of[extent] + 2 * of[f"{side}pad"] - of[kernel]
        if reach < 0:
            raise document.error(
                loc, f"the kernel {kernel}={of[kernel]} is larger than the padded {extent}={of[extent]}"
            )
        dims["P" if extent == "W" else "Q"] = reach // of[f"{side}stride"] + 1
    return _made(document, loc, dims, "cnn", name)


def _made(document: Document, loc: tuple[str | int, ...], dims: Mapping[str, Any], shape: Any, name: str) -> Layer:
    for key, value in dims.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= BOUND_MOST:
            raise document.error((*loc, key), f"must be a whole number from 1 to 2^53, not {shown(value)}")
    if shape not in SHAPES:
        raise document.error((*loc, "shape"), unknown("shape", shape, SHAPES))
    try:
        return Layer.from_dims(dims, shape=shape, name=name)
    except InputError as error:
        raise document.error(loc, str(error)) from None


def _problem(document: Document, problem: Any) -> Layer:
    """Timeloop's problem: bounds beside the shape (v0.3), or under `instance` (v0.4)."""
    loc: tuple[str | int, ...] = ("problem",)
    if not isinstance(problem, dict):
        raise document.error(loc, f"must be a mapping with shape and bounds, not {shown(problem)}")
    given = problem.get("shape", "cnn-layer")
    shape = _shape(document, (*loc, "shape"), given)
    bounds = {name: value for name, value in problem.items() if name not in ("shape", "instance", "version")}
    if "instance" in problem:
        loc = (*loc, "instance")
        bounds = problem["instance"]
        if not isinstance(bounds, dict):
            raise document.error(loc, f"must be a mapping of bounds, not {shown(bounds)}")
    keys = layer_keys(shape)
    # Timeloop's built-in layers call the output channels K; those that are written out say themselves.
    names = {"K": "M"} if not isinstance(given, dict) and "M" in keys and "M" not in bounds else {}
    for part in bounds:
        if part not in (*keys, *names, *UNUSED, "densities", "bitwidths"):
            raise document.error((*loc, str(part)), unknown("key", part, keys))
    if bounds.get("densities"):
        raise document.error((*loc, "densities"), "sparse tensors are not modelled; leave densities out")
    dims = _defaults(given, keys)
    dims |= {names.get(str(part), str(part)): value for part, value in bounds.items() if part in (*keys, *names)}
    return _made(document, loc, dims, shape, Path(document.path).name.split(".")[0])


def _defaults(shape: Any, keys: Iterable[str]) -> dict[str, Any]:
    """The coefficients that a written-out shape gives where the problem does not."""
    coefficients = shape.get("coefficients") if isinstance(shape, dict) else None
    rows = [row for row in coefficients if isinstance(row, dict)] if isinstance(coefficients, list) else []
    found = {str(row.get("name")): row["default"] for row in rows if "default" in row}
    return {key: found[key] for key in keys if key in found}


def _shape(document: Document, loc: tuple[str | int, ...], shape: Any) -> str:
    """Our shape for one by name, or for one that is written out, by the dimensions that index its tensors."""
    if not isinstance(shape, dict):
        if str(shape).lower() not in SHAPE_NAMES:
            raise document.error(loc, unknown("shape", shape, SHAPE_NAMES))
        return SHAPE_NAMES[str(shape).lower()]
    if "instance" in shape:
        raise document.error((*loc, "instance"), "the instance stands beside the shape, not in it")
    key = "data_spaces" if "data_spaces" in shape else "data-spaces"
    spaces = shape.get(key)
    if not isinstance(spaces, list) or not all(isinstance(space, dict) for space in spaces):
        raise document.error((*loc, key), f"must be a list of tensors with name and projection, not {shown(spaces)}")
    found = {str(space.get("name")): frozenset(_letters(space.get("projection"))) for space in spaces}
    for ours in dict.fromkeys(SHAPE_NAMES.values()):
        relevant = PROJECTIONS[ours].relevant
        if found == {tensor: frozenset(dims) for tensor, dims in zip(TENSORS, relevant, strict=True)}:
            return ours
    raise document.error(
        (*loc, key), f"must index {', '.join(TENSORS)} as a convolution does: dense, depthwise or grouped"
    )


def _letters(projection: Any) -> list[str]:
    """The dimensions in a projection, however deep its lists are."""
    if isinstance(projection, list):
        return [letter for part in projection for letter in _letters(part)]
    return [projection] if projection in LOOPS else []


def _from_csv(path: Path) -> list[Layer]:
    text = read_text(path)
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not valid CSV: {error}") from None
    rows_at = [(number, row) for number, row in enumerate(rows, start=1) if any(cell.strip() for cell in row)]
    if not rows_at:
        raise InputError(f"{path}: the file is empty; its first line must name the keys, out of {', '.join(ROW_KEYS)}")
    heading = [cell.strip() for cell in rows_at[0][1]]
    for key in heading:
        if key not in ROW_KEYS:
            raise InputError(f"{path}, line {rows_at[0][0]}: {unknown('key', key, ROW_KEYS)}")
        if heading.count(key) > 1:
            raise InputError(f"{path}, line {rows_at[0][0]}: the key {key!r} is given twice")
    if not 1 < len(rows_at) <= LAYERS_MOST:
        raise InputError(f"{path}: it must have from 1 to {LAYERS_MOST} layers, not {len(rows_at) - 1}")
    layers = []
    for number, row in rows_at[1:]:
        if len(row) != len(heading):
            raise InputError(f"{path}, line {number}: {len(row)} values for {len(heading)} keys")
        given = {key: cell.strip() for key, cell in zip(heading, row, strict=True) if cell.strip()}
        name, shape = given.pop("name", f"{path.stem}_layer{len(layers) + 1}"), given.pop("shape", "cnn")
        dims = {}
        for key, cell in given.items():
            if not (cell.isascii() and cell.isdigit() and len(cell) <= 16 and 1 <= int(cell) <= BOUND_MOST):
                raise InputError(
                    f"{path}, line {number}: {key} must be a whole number from 1 to 2^53, not {shown(cell)}"
                )
            dims[key] = int(cell)
        if shape not in SHAPES:
            raise InputError(f"{path}, line {number}: {unknown('shape', shape, SHAPES)}")
        if not name.isprintable() or len(name) > 100 or "/" in name:
            raise InputError(f"{path}, line {number}: the name must be a short text without slashes, not {shown(name)}")
        try:
            layers.append(Layer.from_dims(dims, shape=shape, name=name))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    return _named_apart(path, layers)
