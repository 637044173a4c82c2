"""Cost tables as columns, one row per unique layer, metric and width triple: for spreadsheets (CSV) and Parquet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.mapper.table import CostTable
from mqjax.types import METRICS, BitWidths, all_widths

UNPACKED_WIDTH = 0
"""What stands for the width of operands that are not packed."""


def columns_of(table: CostTable) -> dict[str, list[Any] | np.ndarray]:
    """Columns by name: layer, times (how often the network has it), metric (by which the mapping is optimal), input_bits,
    weight_bits and output_bits (0: unpacked), energy_pj, cycles, edp, valid_mappings and proven. Where nothing fits, the
    energy is NaN and the cycles are -1; where mappings were not counted, valid_mappings is -1."""
    triples = [*all_widths(), BitWidths()]
    widths = np.array([[w or UNPACKED_WIDTH for w in (b.inputs, b.weights, b.outputs)] for b in triples])
    rows, per = len(table.unique) * len(METRICS), len(triples)
    bits = np.tile(widths, (rows, 1))
    fits = np.concatenate([entries.index.ravel() >= 0 for entries in table.tables])
    energy = np.where(fits, np.concatenate([entries.energy_pj.ravel() for entries in table.tables]), np.nan)
    cycles = np.where(fits, np.concatenate([entries.cycles.ravel() for entries in table.tables]), -1)
    valid = [np.full(per, -1) if entries.valid is None else entries.valid for entries in table.tables]
    times = np.bincount(table.index, minlength=len(table.unique))
    return {
        "layer": [layer.name for layer in table.unique for _ in range(per * len(METRICS))],
        "times": np.repeat(times, per * len(METRICS)),
        "metric": [metric for _ in table.unique for metric in METRICS for _ in range(per)],
        "input_bits": bits[:, 0],
        "weight_bits": bits[:, 1],
        "output_bits": bits[:, 2],
        "energy_pj": energy,
        "cycles": cycles,
        "edp": np.where(fits, energy * cycles, np.nan),
        "valid_mappings": np.concatenate([np.tile(counts, len(METRICS)) for counts in valid]),
        "proven": np.repeat([entries.covered for entries in table.tables], per * len(METRICS)),
    }


def write_csv(path: Path, table: CostTable) -> None:
    """Write `columns_of` a table as CSV; floating-point numbers read back to the last bit."""
    columns = {name: _python(column) for name, column in columns_of(table).items()}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(path, buffer.getvalue())


def write_parquet(path: Path, table: CostTable) -> None:
    """Write `columns_of` a table as Parquet. Raises `InputError` where pyarrow is missing."""
    arrow, parquet = _pyarrow()
    buffer = io.BytesIO()
    parquet.write_table(arrow.table({name: _python(column) for name, column in columns_of(table).items()}), buffer)
    write_atomically(path, buffer.getvalue())


def check_parquet() -> None:
    """Raise `InputError` where Parquet cannot be written, before any work is done."""
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet needs the package pyarrow: pip install 'mqjax[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _python(column: list[Any] | np.ndarray) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column
