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
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= EXTENT_MOST,
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
            "float | None": value is None or isinstance(value, int | float),
        }[kind]
        least = 0 if key == "padding" else 1
        if not fits or (isinstance(value, int) and value < least and kind == "int"):
            raise InputError(f"{where}: {key} must be of the kind {kind}, not {value!r:.60}")
    missing = [
        field.name for field in fields.values() if field.default is dataclasses.MISSING and field.name not in given
    ]
    if missing:
        raise InputError(f"{where}: the key {missing[0]!r} is missing")
    inputs = entry.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(other, str) for other in inputs):
        raise InputError(f"{where}: inputs must be a list of names of nodes")
    return Node(entry["name"], op(**given), tuple(inputs))
