"""Numbers in accelerator files: what may stand where, and what is said of what may not (`ValueError`, which names no key)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqjax.arch import ByWidth, WidthFormula, WidthTable
from mqjax.io.documents import shown

COUNT_MOST = 2**53 - 1
"""Capacities, instances and other counts at most: they are exact in float64."""

AMOUNT_MOST = 1e30
"""Energies, areas and bandwidths at most, so that no sum or product of them overflows float64 (areas: float32)."""

PACE_LEAST = 1e-6
"""Operations per cycle, or cycles per operation, at least."""

BANDWIDTH_LEAST = 1e-6
"""Words per cycle at least; far below any hardware, and it bounds the cycles that a bandwidth can ask for."""


def count(value: Any, most: int = COUNT_MOST) -> int:
    if isinstance(value, float) and value.is_integer():
        # 1e3 and 64.0 are whole, whatever their spelling.
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"must be a whole number from 1 to {most}, not {shown(value)}")
    return value


def count_or(word: str) -> Callable[[Any], int | str]:
    def check(value: Any) -> int | str:
        if value == word:
            return word
        try:
            return count(value)
        except ValueError as error:
            raise ValueError(f"{error}; or {word!r}") from None

    return check


def amount(value: Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= AMOUNT_MOST:
        raise ValueError(f"must be a number from {least:g} to {AMOUNT_MOST:g}, not {shown(value)}")
    return float(value)


def bandwidth(value: Any) -> float | None:
    if value is None or value == "unlimited":
        return None
    try:
        return amount(value, BANDWIDTH_LEAST)
    except ValueError as error:
        raise ValueError(f"{error}; leave it out, or write 'unlimited', where nothing limits it") from None


def _mode_bits(value: Any) -> list[int]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"must list the widths of the modes in bits, not {shown(value)}")
    modes = [count(mode) for mode in value]
    if sorted(set(modes)) != modes:
        raise ValueError(f"must ascend, not {shown(value)}")
    return modes


def by_width(value: Any, least: float = 0.0) -> ByWidth:
    """A number, a table or a formula; raises `ValueError`."""
    if not isinstance(value, dict):
        try:
            return amount(value, least)
        except ValueError as error:
            raise ValueError(f"{error}; or a table or a formula by width") from None
    keys = _TABLE_KEYS if "table" in value else WidthFormula._fields
    odd = [key for key in value if key not in keys]
    if odd or not value:
        what = f"the key {shown(odd[0])} is unknown" if odd else "this is empty"
        raise ValueError(
            f"{what}; a table by width has the keys {', '.join(_TABLE_KEYS)}, a formula some of "
            f"{', '.join(WidthFormula._fields)}"
        )
    if "table" not in value:
        formula = WidthFormula(**{key: amount(number) for key, number in value.items()})
        if sum(formula) < least:
            raise ValueError(f"must give a positive number, not {shown(value)}")
        return formula
    missing = [key for key in keys if key not in value]
    if missing:
        raise ValueError(f"the table lacks the key {missing[0]}")
    inputs, weights = _mode_bits(value["inputs"]), _mode_bits(value["weights"])
    rows = value["table"]
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != len(weights) for row in rows):
        raise ValueError(f"the table must be a list of rows, each with a number for each of the {len(weights)} weights")
    if len(rows) != len(inputs):
        raise ValueError(f"the table must have a row for each of the {len(inputs)} inputs, not {len(rows)}")
    values = tuple(tuple(amount(number, least) for number in row) for row in rows)
    return WidthTable(tuple(inputs), tuple(weights), values)


def pace(value: Any) -> ByWidth:
    return by_width(value, PACE_LEAST)


_TABLE_KEYS = ("inputs", "weights", "table")
