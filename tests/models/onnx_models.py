"""Small ONNX models for tests: a few nodes between images and logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from onnx import TensorProto, helper, numpy_helper

from mqjax.models.files import with_weights
from mqjax.models.graph import Graph
from mqjax.models.importing import Imported
from mqjax.models.network import Network

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


def saved(path: Path, document) -> Path:
    path.write_bytes(document.SerializeToString())
    return path


def logits(found: Imported, images: np.ndarray) -> np.ndarray:
    """Of our network, for images [N, C, H, W]."""
    return np.asarray(nnx.jit(with_weights(found))(jnp.asarray(images.transpose(0, 2, 3, 1))))


def randomised(graph: Graph) -> Network:
    network = nnx.eval_shape(lambda: Network(graph, rngs=nnx.Rngs(0)))
    state, generator = nnx.state(network, (nnx.Param, nnx.BatchStat)), np.random.default_rng(1)
    drawn = jax.tree.map(lambda x: jnp.asarray(generator.uniform(0.5, 1.5, x.shape) * 3 / x.size**0.5, x.dtype), state)
    nnx.update(network, drawn)
    return network


KEPT = {
    "batch norm": between(
        ("BatchNormalization", "c s b m d", "n", {"epsilon": 0.01}), ("Relu", "n", "r"),
        s=some(5), b=some(5), m=some(5), d=np.abs(some(5)),
    ),
    "arithmetic": between(
        ("Mul", "c k", "p"), ("Sub", "h p", "q"), ("Div", "q t", "s"), ("Add", "s o", "a"), ("Relu", "a", "r"),
        k=some(5, 1, 1), h=some(1, 5, 1, 1), t=np.float32(3), o=np.float32([0.25]),
    ),
    "normalised image": (
        [("Sub", "x mean", "a"), ("Div", "a dev", "b"), ("Conv", "b w", "r"), *TAIL],
        {**CONSTANTS, "mean": some(1, 3, 1, 1), "dev": np.abs(some(1, 3, 1, 1)) + 1},
    ),
    "pad": ([("Pad", "x p", "a"), ("Conv", "a w", "r", {"pads": [1] * 4}), *TAIL],
            {**CONSTANTS, "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "same": ([("Conv", "x w", "r", {"auto_pad": "SAME_UPPER"}), *TAIL], CONSTANTS),
    "valid": ([("Conv", "x w", "r", {"auto_pad": "VALID", "strides": [2, 2]}), *TAIL], CONSTANTS),
    "hard sigmoid": between(("HardSigmoid", "c", "h", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "h c", "r")),
    "hard swish": between(("HardSwish", "c", "r")),
    "clip": between(("Clip", "c z s", "r"), z=np.float32(0), s=np.float32(0.5)),
    "no upper limit": between(("Clip", "c z", "r"), z=np.float32(0)),
    "relu behind a pool": between(("MaxPool", "c", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Relu", "p", "r")),
    "global maximum": ([CONV, ("GlobalMaxPool", "c", "g"), ("Flatten", "g", "f"), ("Gemm", "f v u", "y")], CONSTANTS),
    "mean of axes": ([CONV, ("ReduceMean", "c", "f", {"axes": [2, 3], "keepdims": 0}), ("MatMul", "f v", "m"),
                      ("Add", "u m", "y")], CONSTANTS),
    "mean of the whole": ([CONV, ("AveragePool", "c", "g", {"kernel_shape": [8, 8]}), ("Squeeze", "g a", "f"),
                           ("Gemm", "f v u", "y")], {**CONSTANTS, "a": np.array([2, 3])}),
    "factors": ([CONV, ("GlobalAveragePool", "c", "g"), ("Reshape", "g s", "f"),
                 ("Gemm", "f t u", "y", {"alpha": 0.5, "beta": 2.0, "transB": 1})],
                {**CONSTANTS, "s": np.array([-1, 5]), "t": some(4, 5)}),
    "classifier as convolution": ([CONV, ("GlobalAveragePool", "c", "g"), ("Conv", "g t u", "z"), ("Flatten", "z", "y")],
                                  {**CONSTANTS, "t": some(4, 5, 1, 1)}),
    "flattened": ([CONV, ("Relu", "c", "r"), ("Flatten", "r", "f"), ("Dropout", "f", "d"), ("Gemm", "d t u", "y")],
                  {**CONSTANTS, "t": some(320, 4)}),
    "flattened, channels last": (
        [CONV, ("Transpose", "c", "l", {"perm": [0, 2, 3, 1]}), ("Reshape", "l s", "f"), ("Gemm", "f t u", "y")],
        {**CONSTANTS, "s": np.array([0, -1]), "t": some(320, 4)},
    ),
    "weights computed": ([("Transpose", "v1", "v2", {"perm": [1, 0]}), ("Mul", "w0 k", "w"), CONV, ("Relu", "c", "r"),
                          ("GlobalAveragePool", "r", "g"), ("Flatten", "g", "f"), ("Gemm", "f v2 u", "y")],
                         {"u": some(4), "v1": some(4, 5), "w0": some(5, 3, 3, 3), "k": some(5, 1, 1, 1)}),
    "grouped and strided": ([("Conv", "x w", "r", {"group": 3, "strides": [2, 2], "dilations": [2, 2], "pads": [2] * 4}),
                             *TAIL], {**CONSTANTS, "w": some(6, 1, 3, 3), "v": some(6, 4)}),
    "sum and concatenation": between(("Relu", "c", "a"), ("Conv", "a p", "b"), ("Add", "a b", "s"), ("Conv", "s p", "t"),
                                     ("Conv", "s p2", "t2"), ("Concat", "t t2", "r", {"axis": 1}),
                                     p=some(5, 5, 1, 1), p2=some(3, 5, 1, 1), v=some(8, 4)),
    "oblong kernels": between(("Conv", "c k", "a", {"pads": [0, 3, 0, 3]}), ("Conv", "a l", "r", {"pads": [3, 0, 3, 0]}),
                              k=some(5, 5, 1, 7), l=some(5, 5, 7, 1)),
    "sides that differ": between(("Conv", "c k", "r", {"strides": [1, 2], "dilations": [2, 1], "pads": [0, 1, 2, 0]}),
                                 k=some(5, 5, 3, 2)),
    "depthwise, sides that differ": between(("Conv", "c k", "r", {"strides": [2, 1], "group": 5, "pads": [0, 1, 2, 0]}),
                                            k=some(5, 1, 3, 2)),
    "same, strided": ([("Conv", "x w", "r", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}), *TAIL], CONSTANTS),
    "oblong pools": between(("MaxPool", "c", "p", {"kernel_shape": [3, 1], "strides": [2, 1], "pads": [0, 0, 1, 0]}),
                            ("AveragePool", "p", "r", {"kernel_shape": [1, 2], "strides": [1, 2]})),
    "identity": between(("Identity", "c", "i"), ("Cast", "i", "j", {"to": 1}), ("Relu", "j", "r")),
}  # fmt: skip
