"""Small ONNX models for tests: a few nodes between images and logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

GENERATOR = np.random.default_rng(5)


def some(*shape: int) -> np.ndarray:
    """Random numbers, float32."""
    return GENERATOR.normal(size=shape).astype(np.float32)


def model(
    nodes: Sequence[tuple[Any, ...]],
    constants: dict[str, np.ndarray],
    *,
    image: Sequence[int | str] = ("N", 3, 8, 8),
    output: Sequence[int | str] = ("N", 4),
    opset: int = 17,
    metadata: dict[str, str] | None = None,
) -> Any:
    """A model of nodes (op, inputs, output, attributes); images are "x", the last node's output is that of the model. An op
    may be "domain:op"."""
    made = []
    for op, inputs, result, *rest in nodes:
        domain, _, kind = op.rpartition(":")
        made.append(
            helper.make_node(kind, inputs.split(), [result], name=f"n_{result}", domain=domain, **(rest or [{}])[0])
        )
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    domains = {op.rpartition(":")[0] for op, *_ in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    document = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(document, metadata or {})
    return document


CONV = ("Conv", "x w", "c", {"pads": [1, 1, 1, 1]})
TAIL = [("GlobalAveragePool", "r", "g"), ("Flatten", "g", "f"), ("Gemm", "f v u", "y")]
CONSTANTS = {"w": some(5, 3, 3, 3), "v": some(5, 4), "u": some(4)}


def between(*nodes: tuple[Any, ...], **constants: np.ndarray) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes from a convolution's output "c" to "r", with a classifier behind them."""
    return [CONV, *nodes, *TAIL], {**CONSTANTS, **constants}
