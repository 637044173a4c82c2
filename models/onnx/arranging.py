"""Pools, concatenations, and what flattens, turns or pads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from mqjax.models.onnx.file import attributes
from mqjax.models.onnx.layers import plain, window
from mqjax.models.onnx.registry import ANY, Handlers
from mqjax.models.onnx.values import Value
from mqjax.models.ops import AvgPool, Concat, Flatten, GlobalAvgPool, MaxPool

if TYPE_CHECKING:
    from mqjax.models.onnx.reader import Reader

HANDLERS = Handlers()
"""By op."""


@HANDLERS.of("MaxPool", "AveragePool")
def _pool(r: Reader, node: Any) -> Value:
    given, mean = attributes(node), node.op_type == "AveragePool"
    x = r.value(node)
    if not (mean and x.layout == "NCHW" and x.affine is None and not x.gate):
        x = r.settled(node)
    padded_before = x.padding is not None
    size, stride, padding, _ = window(r, node, x, tuple(given.get("kernel_shape", ())), pool=True)
    if mean and any(padding) and not (given.get("count_include_pad", 0) or padded_before):
        r.refuse(node, "padding that does not count (count_include_pad=0) is not supported in average pools")
    if mean and not any(padding) and r.shape(x)[:2] == size:
        return Value(r.add(node, GlobalAvgPool(), x), "features")
    return Value(r.add(node, (AvgPool if mean else MaxPool)(size, stride, padding), plain(x)))


@HANDLERS.of("GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
def _global_pool(r: Reader, node: Any) -> Value:
    x = r.settled(node, layouts=ANY)
    if node.op_type == "ReduceMean":
        axes = attributes(node).get("axes") or r.constant(node, 1).tolist()
        wanted = {"NHWC": {1, 2}}.get(x.layout, {2, 3})
        if {axis % 4 for axis in axes} != wanted:
            r.refuse(node, f"only the mean over height and width is supported, not that over axes {axes}")
    if x.layout == "features":
        r.skip(node, "its input is one pixel already")
        return x
    if node.op_type != "GlobalMaxPool":
        return Value(r.add(node, GlobalAvgPool(), x), "features")
    height, width, _ = r.shape(x)
    return Value(r.add(node, MaxPool((height, width), 1), x))


@HANDLERS.of("Concat")
def _concat(r: Reader, node: Any) -> Value:
    parts = [r.settled(node, number, layouts=ANY) for number in range(len(node.input))]
    layout = parts[0].layout
    if any(part.layout != layout or part.mixed is not None for part in parts):
        r.refuse(node, "its inputs must have one layout, and not be flattened images")
    axis, dims = attributes(node).get("axis", 1), 2 if layout == "features" else 4
    if axis not in ((3, -1) if layout == "NHWC" else (1, 1 - dims)):
        r.refuse(node, f"only channels can be put side by side, not axis {axis}")
    if len(parts) == 1:
        r.skip(node, "it has a single input")
        return parts[0]
    return Value(r.add(node, Concat(), *parts), layout)


@HANDLERS.of("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(r: Reader, node: Any) -> Value:
    x = r.value(node)
    before, after = r.file.shapes.get(node.input[0]), r.file.shapes.get(node.output[0])
    if before is not None and after is None and node.op_type == "Reshape":
        after = _asked(before, r.constant(node, 1).reshape(-1).tolist())
    if before is None or after is None:
        r.refuse(node, "its shape cannot be found out; export the network with images of fixed size")
    r.file.shapes[node.output[0]] = after
    if before == after:
        r.skip(node, "it changes nothing")
        return x
    x = r.settled(node, layouts=ANY)
    shape = r.shape(x)
    count = int(np.prod(shape))
    if after[:1] != before[:1] or sorted(after[1:], reverse=True) != [count, *[1] * (len(after) - 2)]:
        shown = " to ".join("x".join(map(str, s)) for s in (before, after))
        r.refuse(node, f"it changes shapes from {shown}; only flattening before a fully connected layer is supported")
    if len(shape) == 1:
        r.skip(node, "features stay as they are")
        return x
    height, width, channels = shape
    ordered = x.layout == "NHWC" or height * width == 1 or channels == 1
    mixed = None if ordered else (channels, height, width)
    return Value(r.add(node, Flatten(), x), "features", mixed)


def _asked(before: tuple[int, ...], shape: list[int]) -> tuple[int, ...] | None:
    """The shape that a Reshape asks for, with 0 for what stays and -1 for the rest."""
    found = [before[i] if extent == 0 and i < len(before) else extent for i, extent in enumerate(shape)]
    if found.count(-1) == 1:
        rest = int(np.prod([extent for extent in found if extent != -1]))
        if rest <= 0 or int(np.prod(before)) % rest:
            return None
        found[found.index(-1)] = int(np.prod(before)) // rest
    return tuple(found)


@HANDLERS.of("Transpose")
def _transpose(r: Reader, node: Any) -> Value:
    x, order = r.value(node), attributes(node).get("perm")
    turned = {("NCHW", "0231"): "NHWC", ("NHWC", "0312"): "NCHW"}
    layout = turned.get((x.layout, "".join(map(str, order or ()))))
    if x.layout == "features" and order is not None and len(order) == 4 and order[0] == 0 or order == [0, 1]:
        layout = "features"
    if layout is None:
        r.refuse(node, f"a transposition by {order} of a tensor in the layout {x.layout} is not supported")
    r.skip(node, "memory keeps channels last in any case")
    return dataclasses.replace(x, layout=layout)


@HANDLERS.of("Pad")
def _pad(r: Reader, node: Any) -> Value:
    x, given = r.value(node), attributes(node)
    if x.layout != "NCHW" or x.gate or given.get("mode", b"constant") != b"constant":
        r.refuse(node, "only zeros around images [N, C, H, W] can be padded")
    value = given.get("value", 0.0) if (found := r.optional(node, 2)) is None else float(found.reshape(-1)[0])
    pads = given.get("pads") or r.constant(node, 1).reshape(-1).tolist()
    if len(node.input) > 3 and node.input[3]:
        axes = r.constant(node, 3).reshape(-1).tolist()
        whole = [0] * 8
        for number, axis in enumerate(axes):
            whole[axis % 4], whole[axis % 4 + 4] = pads[number], pads[number + len(axes)]
        pads = whole
    if len(pads) != 8 or value != 0 or min(pads) < 0 or any((pads[0], pads[1], pads[4], pads[5])):
        r.refuse(node, "only zeros beside height and width can be padded")
    before = x.padding or (0, 0, 0, 0)
    added = (pads[2], pads[3], pads[6], pads[7])
    r.skip(node, "merged into the layer after it")
    return dataclasses.replace(x, padding=tuple(one + other for one, other in zip(before, added, strict=True)))
