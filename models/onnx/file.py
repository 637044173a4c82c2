"""An ONNX file, read without trust: nothing in it is executed, no other file is opened, and sizes have limits."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.errors import InputError

BYTES_MOST = 2**31 - 1
"""Of a file: protobuf's own limit."""

ELEMENTS_MOST = 2**29
"""Of one tensor."""

COMPUTED_MOST = 2**26
"""Of a constant that is computed from others."""

NODES_MOST = 100_000

QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""Where QONNX keeps its nodes; the latter two are older names of the same."""

FOLDABLE = frozenset(
    ("Add", "Cast", "Concat", "Constant", "DequantizeLinear", "Div", "Gather", "Identity", "Mul", "QuantizeLinear")
    + ("Reciprocal", "Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze")
)
"""Ops that are computed where all their inputs are constants; none of them makes much out of little."""


@dataclasses.dataclass(frozen=True)
class OnnxFile:
    """The content of a file: its protobuf graph, shapes by tensor as far as they are known, and its initializers."""

    path: Path
    graph: Any
    opsets: Any
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray]
    metadata: dict[str, str]

    def compute(self, node: Any, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of a node whose inputs are constants, `values`."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        size = sum(value.size for value in values.values())
        if size > COMPUTED_MOST:
            raise InputError(f"{self.path}: {label(node)}: a constant computed of {size} values is too large")
        graph = helper.make_graph(
            [node],
            "constant",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for name, v in values.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        # Shapes of a broadcast may be large where its operands are not.
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            shape = np.broadcast_shapes(*(value.shape for value in values.values()))
            if np.prod(shape, dtype=float) > COMPUTED_MOST:
                raise ValueError(f"a constant of {shape} is too large")
        model = helper.make_model(graph, opset_imports=self.opsets)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            # The evaluator has no older version of these two; what they compute has not changed since.
            newest = max(19, *(entry.version for entry in self.opsets if entry.domain in ("", "ai.onnx")))
            del model.opset_import[:]
            model.opset_import.append(helper.make_opsetid("", newest))
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(values))]


def onnx_package() -> Any:
    """The package `onnx`. Raises `InputError` that says how to install it where it is missing."""
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise InputError("ONNX files need the package onnx: pip install 'mqjax[onnx]'") from None


def label(node: Any) -> str:
    """A node as messages name it: "node 'conv1' (Conv)"."""
    name = node.name or (node.output[0] if node.output else "")
    name = name if name.isprintable() and len(name) <= 80 else repr(name[:60])
    return f"node {name!r} ({node.op_type if node.op_type.isprintable() else 'unknown op'})"


def module_of(node: Any) -> str:
    """What PyTorch calls the module of a layer's node, from the name of its weights (layer1.0.conv1.weight) or, where these were
    renamed, its own (/layer1/layer1.0/conv1/Conv); "" where neither says."""
    weights = node.input[1] if len(node.input) > 1 else ""
    if weights.endswith(".weight"):
        path = weights.removesuffix(".weight")
    elif node.name.startswith("/"):
        path, before = "", ""
        for part in node.name.strip("/").split("/")[:-1]:
            # A child of a Sequential repeats the latter's name: features/features.0.
            inside = before and part.startswith(f"{before}.")
            path = path.removesuffix(before) + part if inside else f"{path}.{part}".lstrip(".")
            before = part
    else:
        return ""
    return path if re.fullmatch(r"\w[\w.]{0,199}", path, re.ASCII) else ""


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes in Python's terms."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def read_file(path: Path) -> OnnxFile:
    """The content of an ONNX file. Raises `InputError` naming the file, and the node or tensor, where it is damaged, keeps
    tensors in other files, is larger than the limits, or has shapes that contradict each other."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    onnx = onnx_package()
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        if size > BYTES_MOST:
            raise InputError(f"{path}: {size} bytes are more than an ONNX file may have ({BYTES_MOST})")
        model = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (DecodeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no ONNX file, or a damaged one") from None
    graph = model.graph
    _check_model(path, model)
    constants = {tensor.name: _array(path, tensor) for tensor in graph.initializer}
    return OnnxFile(
        path=path,
        graph=graph,
        opsets=model.opset_import,
        shapes=_inferred_shapes(path, model),
        constants=constants,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _check_model(path: Path, model: Any) -> None:
    onnx = onnx_package()
    graph = model.graph
    if not graph.node:
        raise InputError(f"{path} holds no network: its graph has no nodes")
    if len(graph.node) > NODES_MOST:
        raise InputError(f"{path}: {len(graph.node)} nodes are more than {NODES_MOST}")
    if model.functions:
        raise InputError(f"{path} has functions of its own; inline them first, by onnx.inliner.inline_local_functions")
    if graph.sparse_initializer:
        raise InputError(
            f"{path}: sparse tensors are not supported; store {graph.sparse_initializer[0].values.name!r} densely"
        )
    names = [text for node in graph.node for text in (node.name, node.op_type, node.domain, *node.input, *node.output)]
    names += [attribute.name for node in graph.node for attribute in node.attribute]
    names += [entry.name for entries in (graph.initializer, graph.input, graph.output) for entry in entries]
    names += [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    if not all(isinstance(name, str) for name in names):  # protobuf's bytes where a text is not in UTF-8
        raise InputError(f"{path} is a damaged ONNX file: a name in it is no text in UTF-8")
    for tensor in graph.initializer:
        _check_tensor(path, tensor)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and others for damaged protobufs
        raise InputError(f"{path} is no valid ONNX model: {_sentence(error)}") from None


def _check_tensor(path: Path, tensor: Any) -> None:
    onnx = onnx_package()
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise InputError(
            f"{path}: tensor {_in_words(tensor)} lies in another file, which is not read; write one file "
            "(torch.onnx.export(..., external_data=False), or onnx.save_model with save_as_external_data=False)"
        )
    elements = 1
    for extent in tensor.dims:
        if extent < 0:
            raise InputError(f"{path}: tensor {_in_words(tensor)} has the extent {extent}; it must not be negative")
        elements *= extent
    if elements > ELEMENTS_MOST:
        raise InputError(f"{path}: tensor {_in_words(tensor)} has {elements} elements, more than {ELEMENTS_MOST}")


def _in_words(tensor: Any) -> str:
    return repr(tensor.name[:80])


def _array(path: Path, tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy's, protobuf's and onnx's own
        raise InputError(f"{path}: tensor {_in_words(tensor)} cannot be read: {_sentence(error)}") from None


def constant_of(path: Path, node: Any) -> np.ndarray:
    """The value of a Constant node."""
    for attribute in node.attribute:
        if attribute.name == "value":
            _check_tensor(path, attribute.t)
            return _array(path, attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(attributes(node)[attribute.name], np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(attributes(node)[attribute.name], np.int64)
    raise InputError(f"{path}: {label(node)}: a constant must be a dense tensor, a number or a list of numbers")


def _inferred_shapes(path: Path, model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by onnx's own inference; a batch of unknown size is one image.

    Quantizers of QONNX, which onnx does not know, keep the shape of what they read.
    """
    onnx = onnx_package()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph = bare.graph
    initialized = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in initialized and dims and dims[0].dim_value < 1:
            dims[0].dim_value = 1
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        if node.domain in QUANT_DOMAINS and node.op_type in ("Quant", "BipolarQuant", "Trunc", "IntQuant"):
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:], node.input[1:]
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
    except Exception as error:
        raise InputError(f"{path}: its shapes do not fit: {_sentence(error)}") from None
    found = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        if not value.type.tensor_type.HasField("shape"):
            continue
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _sentence(error: Exception) -> str:
    """The first words of an error of a library that go on for lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter for letter in text if letter.isprintable())[:300]
