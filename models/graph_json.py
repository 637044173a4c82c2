"""A graph as JSON, for checkpoints of networks that have no name."""

from __future__ import annotations

import dataclasses
from typing import Any

from mqjax.errors import InputError, unknown
from mqjax.models import ops
from mqjax.models.graph import Graph, Node

OPS = {
    op.__name__: op
    for op in (ops.Image, ops.Conv, ops.Linear, ops.Activation, ops.Add, ops.MaxPool, ops.AvgPool, ops.GlobalAvgPool)
    + (ops.Concat, ops.Flatten)
}
"""By name."""

EXTENT_MOST = 2**24

FIELD_KINDS = {
    "int": "a whole number, at least 1",
    "bool": "true or false",
    "str": "a text",
    "float | None": "a number or null",
    "Extents": "a whole number, at least 1, or two of them, along height and width",
    "Borders": "a whole number, or four: top, left, bottom and right",
}
"""Of the fields of ops."""


def graph_to_json(graph: Graph) -> list[dict[str, Any]]:
    """One object per node."""
    return [
        {"name": node.name, "op": type(node.op).__name__, **dataclasses.asdict(node.op), "inputs": list(node.inputs)}
        for node in graph.nodes
    ]


def graph_from_json(name: str, nodes: Any) -> Graph:
    """The graph of `graph_to_json`. Raises `InputError` naming the node that is wrong."""
    if not isinstance(nodes, list):
        raise InputError(f"the graph of network {name!r} must be a list of nodes")
    return Graph(str(name), tuple(_node(number, entry) for number, entry in enumerate(nodes, start=1)))


def _is_of_kind(kind: str, value: Any) -> bool:
    """Whether a value is of the kind of a field."""
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if kind == "float | None":
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    sides, least = {"int": (0, 1), "Extents": (2, 1), "Borders": (4, 0)}[kind]
    numbers = value if isinstance(value, list) and len(value) == sides > 0 else [value]
    return all(isinstance(n, int) and not isinstance(n, bool) and least <= n <= EXTENT_MOST for n in numbers)


def _node(number: int, entry: Any) -> Node:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError(f"node {number} of the graph must be an object with a name")
    where = f"node {entry['name']!r}"
    op = OPS.get(str(entry.get("op")))
    if op is None:
        raise InputError(f"{where}: {unknown('op', entry.get('op'), OPS)}")
    given = {key: value for key, value in entry.items() if key not in ("name", "op", "inputs")}
    fields = {field.name: field for field in dataclasses.fields(op)}
    for key, value in given.items():
        if key not in fields:
            raise InputError(f"{where}: {unknown('key', key, fields)}")
        kind = str(fields[key].type)
        if not _is_of_kind(kind, value):
            raise InputError(f"{where}: {key} must be {FIELD_KINDS[kind]}, not {value!r:.60}")
        if isinstance(value, list):
            given[key] = tuple(value)
    missing = [
        field.name for field in fields.values() if field.default is dataclasses.MISSING and field.name not in given
    ]
    if missing:
        raise InputError(f"{where}: the key {missing[0]!r} is missing")
    inputs = entry.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(other, str) for other in inputs):
        raise InputError(f"{where}: inputs must be a list of names of nodes")
    return Node(entry["name"], op(**given), tuple(inputs))
