"""Sums and products that files may write for a number, such as `depth: 64 * 16`: read by a parser of their own, never run.

Numbers, names, + - * / // ** and parentheses; `/` divides exactly where it can. Names are those of variables and of other
attributes, whose values may be formulas, too.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from mqjax.io.documents import shown

LETTERS_MOST = 200
"""Characters of a formula at most."""

LARGEST = 2**63
"""Values of all steps are below this; exponents are at most 64."""

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow)


class FormulaError(ValueError):
    """What is wrong with a formula, to be said after its place."""


def formula_value(text: str, names: Mapping[str, Any], inside: tuple[str, ...] = ()) -> int | float:
    """The value of a formula; `inside` are names whose values are being looked up. Raises `FormulaError`."""
    if len(text) > LETTERS_MOST:
        raise FormulaError(f"is a formula of {len(text)} characters; {LETTERS_MOST} are read at most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError(f"is neither a number nor a formula: {shown(text)}") from None
    return _node_value(tree, text, names, inside)


def _node_value(node: ast.expr, text: str, names: Mapping[str, Any], inside: tuple[str, ...]) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _bounded(node.value, text)
    if isinstance(node, ast.Name):
        return _looked_up(node.id, text, names, inside)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _node_value(node.operand, text, names, inside)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
        left, right = (_node_value(part, text, names, inside) for part in (node.left, node.right))
        return _bounded(_operated(node.op, left, right, text), text)
    raise FormulaError(f"is {shown(text)}; a formula has numbers, names, + - * / // ** and parentheses alone")


def _looked_up(name: str, text: str, names: Mapping[str, Any], inside: tuple[str, ...]) -> int | float:
    value = names.get(name)
    if value is None:
        raise FormulaError(f"is {shown(text)}, but {shown(name)} is neither a variable nor an attribute beside it")
    if name in inside:
        raise FormulaError(f"depends on itself, by way of {' and '.join(inside)}")
    if isinstance(value, str):
        return formula_value(value, names, (*inside, name))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormulaError(f"is {shown(text)}, but {shown(name)} is no number: {shown(value)}")
    return _bounded(value, text)


def _operated(operator: ast.operator, left: int | float, right: int | float, text: str) -> int | float:
    if isinstance(operator, ast.Div | ast.FloorDiv):
        if right == 0:
            raise FormulaError(f"is {shown(text)}, which divides by zero")
        exact = isinstance(left, int) and isinstance(right, int) and left % right == 0
        return left // right if exact or isinstance(operator, ast.FloorDiv) else left / right
    if isinstance(operator, ast.Pow):
        if not 0 <= right <= 64 or abs(left) >= 2**32:
            raise FormulaError(f"is {shown(text)}, whose power is too large")
        return left**right if left >= 0 or right == int(right) else math.nan
    if isinstance(operator, ast.Mult):
        return left * right
    return left + right if isinstance(operator, ast.Add) else left - right


def _bounded(value: int | float, text: str) -> int | float:
    if not abs(value) < LARGEST:  # NaN, too
        raise FormulaError(f"is {shown(text)}, whose value or a part of it is too large or no number")
    return value
