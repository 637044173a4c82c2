"""What each op of ONNX becomes in the graph: activations, quantizers and what is skipped here, the rest from beside."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from mqjax.models.onnx import arranging, layers
from mqjax.models.onnx.file import attributes
from mqjax.models.onnx.registry import ANY, Handlers
from mqjax.models.onnx.values import Value
from mqjax.models.ops import Activation

if TYPE_CHECKING:
    from mqjax.models.onnx.reader import Reader

HANDLERS = Handlers({**layers.HANDLERS, **arranging.HANDLERS})
"""By op, all of them."""


# Activations.


@HANDLERS.of("Relu")
def _relu(r: Reader, node: Any) -> Value:
    return _activated(r, node, Activation("relu"))


@HANDLERS.of("Clip")
def _clip(r: Reader, node: Any) -> Value:
    given = attributes(node)
    low = given.get("min") if (found := r.optional(node, 1)) is None else float(found.reshape(-1)[0])
    high = given.get("max") if (found := r.optional(node, 2)) is None else float(found.reshape(-1)[0])
    high = None if high is None or high >= np.finfo(np.float32).max else float(high)
    if low != 0 or (high is not None and high <= 0):
        r.refuse(node, f"only a Clip from 0 to a positive number is supported, not from {low} to {high}")
    return _activated(r, node, Activation("relu", high))


@HANDLERS.of("HardSwish")
def _hard_swish(r: Reader, node: Any) -> Value:
    return _activated(r, node, Activation("hardswish"))


@HANDLERS.of("HardSigmoid")
def _hard_sigmoid(r: Reader, node: Any) -> Value:
    given = attributes(node)
    if abs(given.get("alpha", 0.2) - 1 / 6) > 1e-6 or given.get("beta", 0.5) != 0.5:
        return keep_shape(r, node)
    return dataclasses.replace(r.settled(node, layouts=ANY), gate=True)


def _activated(r: Reader, node: Any, op: Activation) -> Value:
    x = r.settled(node, layouts=ANY)
    return Value(r.add(node, op, x), x.layout, x.mixed)


# What is skipped, and quantizers.


@HANDLERS.of("Dropout", "Identity", "Cast")
def _same(r: Reader, node: Any) -> Value:
    if node.op_type == "Cast" and attributes(node).get("to") not in (1, 10, 11, 16):
        r.refuse(node, "only a Cast to floating-point numbers is supported")
    reasons = {"Dropout": "it acts in training alone", "Identity": "it changes nothing", "Cast": "types are not kept"}
    r.skip(node, reasons[node.op_type])
    return r.value(node)


@HANDLERS.of("Softmax", "LogSoftmax")
def _softmax(r: Reader, node: Any) -> Value:
    x = r.settled(node, layouts=ANY)
    if x.layout != "features" or node.output[0] != r.file.graph.output[0].name:
        r.refuse(node, "it is supported only where it gives the network's output")
    r.skip(node, "it does not change which logit is the largest")
    return x


@HANDLERS.of("QuantizeLinear", "DequantizeLinear", "Quant", "IntQuant", "BipolarQuant", "Trunc")
def _quantizer(r: Reader, node: Any) -> Value:
    x = r.value(node)
    if node.op_type not in ("DequantizeLinear", "Trunc"):
        bits = r.quantizer_bits(node)
        r.stored_bits[x.node] = bits
        r.skip(node, f"its width, {bits}, is that of the tensor; grids are calibrated anew")
    else:
        r.skip(node, "part of a quantizer")
    return x


def keep_shape(r: Reader, node: Any) -> Value:
    """An op that is not supported: left out where it changes no shape, which serves the mapper alone."""
    if node.op_type in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QLinearAdd"):
        r.refuse(
            node, "networks of integer ops are not supported; export with QuantizeLinear and DequantizeLinear instead"
        )
    inputs = [name for name in node.input if name in r.values]
    before, after = (r.file.shapes.get(name) for name in (inputs[0] if inputs else "", node.output[0]))
    if len(inputs) != 1 or before is None or before != after or len([name for name in node.output if name]) > 1:
        r.refuse(node, "this op is not supported")
    x = r.settled(node, list(node.input).index(inputs[0]), layouts=ANY)
    return r.not_kept(node, x, "not supported")
