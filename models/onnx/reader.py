"""The graph and the weights of an ONNX file.

Batch norms and constants that are added or multiplied go into the layer before them, and those on the image into the layers
after it; what changes neither shapes nor values is skipped; quantizers leave their widths. What each op becomes is written
in `mqjax.models.onnx.handlers`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mqjax.errors import InputError
from mqjax.models.graph import Graph
from mqjax.models.importing import Assembly, Imported, Skipped
from mqjax.models.networks import called
from mqjax.models.onnx.file import (
    FOLDABLE,
    QUANT_DOMAINS,
    OnnxFile,
    attributes,
    constant_of,
    label,
    module_of,
    read_file,
)
from mqjax.models.onnx.values import Value
from mqjax.models.ops import Image, Kernel, Linear, Op, Shape
from mqjax.types import BitWidths

PIXELS_MOST = 2**31
"""Values of one image."""


class Reader(Assembly):
    """The state of a walk through a file: nodes so far, the values and constants that its tensors are."""

    def __init__(self, file: OnnxFile) -> None:
        super().__init__(str(file.path))
        self.file = file
        self.values: dict[str, Value] = {}
        self.constants = dict(file.constants)
        self.kernel_bits: dict[str, int] = {}
        self.constant_bits: dict[str, int] = {}
        self.stored_bits: dict[str, int] = {}
        self.batch = 1
        self.readers: dict[str, int] = {}
        for name in (*(n for node in file.graph.node for n in set(node.input)), *(o.name for o in file.graph.output)):
            self.readers[name] = self.readers.get(name, 0) + 1

    # What handlers ask for.

    def refuse(self, node: Any, problem: str) -> NoReturn:
        raise InputError(f"{self.file.path}: {label(node)}: {problem}")

    def value(self, node: Any, number: int = 0) -> Value:
        """The value that a node reads as its input of this number."""
        name = node.input[number] if number < len(node.input) else ""
        if name in self.constants:
            self.refuse(node, f"its input {number + 1} must come from the image, not be a constant")
        if name not in self.values:
            self.refuse(node, f"its input {name!r} is no tensor that the network computes from the image")
        return self.values[name]

    def settled(self, node: Any, number: int = 0, *, layouts: tuple[str, ...] = ("NCHW",)) -> Value:
        """The value of an input on which nothing is pending. Raises `InputError` where something is."""
        x = self.value(node, number)
        if x.layout not in layouts:
            self.refuse(
                node, f"it reads a tensor in the layout {x.layout}; only {' and '.join(layouts)} is supported here"
            )
        if x.padding is not None:
            self.refuse(node, "a Pad must be followed by a convolution or an average pool")
        if x.affine is not None:
            self.refuse(node, "an image that is scaled or shifted must be read by convolutions alone")
        if x.gate:
            self.refuse(node, "a HardSigmoid must be multiplied with what it reads (a hard swish)")
        return x

    def constant(self, node: Any, number: int) -> np.ndarray:
        """The constant that a node reads as its input of this number."""
        name = node.input[number] if number < len(node.input) else ""
        if name not in self.constants:
            self.refuse(node, f"its input {number + 1} must be a constant")
        return self.constants[name]

    def optional(self, node: Any, number: int) -> np.ndarray | None:
        """The same, or `None` where the input is left out."""
        given = number < len(node.input) and node.input[number]
        return self.constant(node, number) if given else None

    def shape(self, x: Value) -> Shape:
        """The shape of a value in the graph."""
        return self.graph_shapes[x.node]

    def add(self, node: Any, op: Op, *inputs: Value) -> str:
        """Add a node to the graph, named after the framework's module if it is a layer and that is known, else after its node
        in the file."""
        module = module_of(node) if isinstance(op, Kernel) else ""
        name = module or re.sub(rf"[^A-Za-z0-9]{re.escape(node.op_type)}$", "", node.name or node.output[0])
        name = self.add_node(name, op, [x.node for x in inputs])
        if module:
            self.origins[name] = module
        return name

    def skip(self, node: Any, reason: str) -> None:
        """Note that a node is left out."""
        name, op = label(node)[len("node ") :].rsplit(" ", 1)
        self.skipped.append(Skipped(name.strip("'"), op.strip("()"), reason))

    def not_kept(self, node: Any, x: Value, reason: str) -> Value:
        """A node that changes no shape, left out, which serves the mapper alone."""
        self.skip(node, f"{reason}; it changes no shape, so the mapper does not need it")
        self.inexact = self.inexact or f"{label(node)} is not supported"
        return x

    # The walk.

    def read(self) -> Imported:
        from mqjax.models.onnx.handlers import HANDLERS, keep_shape

        self._image()
        for node in self.file.graph.node:
            if self._constant(node):
                continue
            quantizer = node.domain in QUANT_DOMAINS
            if node.domain not in ("", "ai.onnx") and not quantizer:
                self.refuse(node, f"the domain {node.domain!r} is not supported")
            handler = HANDLERS.get(node.op_type)
            found = handler(self, node) if handler is not None else keep_shape(self, node)
            shared = found.shared or self.readers.get(node.output[0], 0) > 1
            self.values[node.output[0]] = dataclasses.replace(found, shared=shared)
            self._agrees(node, found)
            if node.output[0] not in self.file.shapes and (shape := self._outside(found)) is not None:
                self.file.shapes[node.output[0]] = shape
        return self._finished()

    def _image(self) -> None:
        path, graph = self.file.path, self.file.graph
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            names = ", ".join(repr(value.name[:40]) for value in inputs) or "none"
            raise InputError(f"{path}: a network must have one input, its images, but it has {names}")
        name = inputs[0].name
        shape = self.file.shapes.get(name)
        if shape is None or len(shape) != 4:
            known = "unknown" if shape is None else "x".join(map(str, shape))
            raise InputError(
                f"{path}: its input {name!r} must be images [N, channels, height, width] of known size, but its shape is {known}"
            )
        readers = [node for node in graph.node if name in node.input]
        last = all(node.op_type == "Transpose" and attributes(node).get("perm") == [0, 3, 1, 2] for node in readers)
        layout = "NHWC" if readers and last else "NCHW"
        height, width, channels = shape[1:] if layout == "NHWC" else (*shape[2:], shape[1])
        if height * width * channels > PIXELS_MOST:
            raise InputError(f"{path}: its images of {height}x{width}x{channels} have more than {PIXELS_MOST} values")
        if min(height, width, channels) < 1:
            raise InputError(f"{path}: its images of {height}x{width}x{channels} have no pixels")
        self.batch = shape[0]
        self.add_node("image", Image((height, width), channels))
        self.values[name] = Value("image", layout, affine=self._normalisation(channels), shared=True)

    def _normalisation(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Gain and shift from our pixels, -1..1, to those that the file's metadata says the network was trained on."""
        found = []
        for key, default in (("image_mean", 0.5), ("image_deviation", 0.5)):
            text = self.file.metadata.get(key, str(default))
            try:
                numbers = np.array([float(part) for part in text.split(",")])
                if not np.isfinite(numbers).all() or len(numbers) not in (1, channels):
                    raise ValueError
            except ValueError:
                raise InputError(
                    f"{self.file.path}: the metadata {key} must be a number, or one for each of {channels} channels, not {text[:40]!r}"
                ) from None
            found.append(np.broadcast_to(numbers, channels))
        mean, deviation = found
        if (deviation <= 0).any():
            raise InputError(f"{self.file.path}: the metadata image_deviation must be positive")
        gain, shift = 0.5 / deviation, (0.5 - mean) / deviation
        return None if (gain == 1).all() and (shift == 0).all() else (gain, shift)

    def _constant(self, node: Any) -> bool:
        """Whether a node gives constants, which are then known."""
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant":
            self.constants[node.output[0]] = constant_of(self.file.path, node)
            return True
        if node.op_type == "Shape" and node.input[0] in self.file.shapes:
            given = attributes(node)
            whole = np.array(self.file.shapes[node.input[0]], np.int64)
            self.constants[node.output[0]] = whole[given.get("start", 0) : given.get("end")]
            return True
        if not inputs or any(name not in self.constants for name in inputs):
            return False
        bits = self.constant_bits.get(inputs[0])
        if node.domain in QUANT_DOMAINS:
            found, bits = [self.constants[inputs[0]]], self.quantizer_bits(node)
        elif node.op_type in FOLDABLE and not any(attribute.HasField("g") for attribute in node.attribute):
            try:
                found = self.file.compute(node, {name: self.constants[name] for name in inputs})
            except Exception as error:  # the reference evaluator's and NumPy's
                self.refuse(node, f"its constants do not fit: {' '.join(str(error).split())[:200]}")
            if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and bits is None):
                bits = self.quantizer_bits(node)
        else:
            return False
        for name, value in zip(node.output, found, strict=False):
            self.constants[name] = value
            if bits is not None:
                self.constant_bits[name] = bits
        return True

    def quantizer_bits(self, node: Any) -> int:
        """The width of a quantizer's integers."""
        from onnx import TensorProto

        if node.domain in QUANT_DOMAINS:
            if node.op_type == "BipolarQuant":
                return 1
            bits = self.constant(node, 3)
            if bits.size != 1 or not 1 <= float(bits.reshape(())) <= 32 or float(bits.reshape(())) % 1:
                self.refuse(node, "its bit-width must be one whole number from 1 to 32")
            return int(bits.reshape(()))
        if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
            name = str(self.constants[node.input[0]].dtype)
        elif (zero := self.optional(node, 2)) is not None:
            name = str(zero.dtype)
        else:
            name = TensorProto.DataType.Name(attributes(node).get("output_dtype", 0) or TensorProto.UINT8)
        found = re.search(r"(\d+)", name)
        if found is None:
            self.refuse(node, f"it quantizes to {name}, which are no integers")
        return int(found[1])

    def _outside(self, found: Value) -> tuple[int, ...] | None:
        """The shape that the file's tensor has, where it is clear."""
        shape = self.shape(found)
        if found.layout == "features" or found.padding is not None:
            return (self.batch, *shape) if isinstance(self.nodes[-1].op, Linear) else None
        return (self.batch, *shape) if found.layout == "NHWC" else (self.batch, *shape[-1:], *shape[:-1])

    def _agrees(self, node: Any, found: Value) -> None:
        """Raise `InputError` where the graph's shape is not that of onnx's inference."""
        wanted = self.file.shapes.get(node.output[0])
        if wanted is None or found.padding is not None:
            return
        ours = self.shape(found)
        if len(ours) == 3:
            height, width, channels = ours
            fits = wanted[1:] == ((height, width, channels) if found.layout == "NHWC" else (channels, height, width))
        else:
            fits = sorted(wanted[1:], reverse=True) == [ours[0], *[1] * (len(wanted) - 2)]
        if not fits:
            shown = "x".join(map(str, wanted))
            self.refuse(
                node,
                f"its output has the shape {shown}, which its sizes give only by rounding up or another batch; not supported",
            )

    def _finished(self) -> Imported:
        path, graph = self.file.path, self.file.graph
        if len(graph.output) != 1:
            names = ", ".join(repr(value.name[:40]) for value in graph.output)
            raise InputError(f"{path}: a network must have one output, its logits, but it has {names or 'none'}")
        name = graph.output[0].name
        if name not in self.values:
            raise InputError(f"{path}: its output {name!r} does not depend on the image")
        out = self.values[name]
        if len(self.shape(out)) != 1 or out.mixed is not None or out.gate or out.padding is not None:
            self.inexact = self.inexact or f"its output {name!r} is no list of logits"
        found, weights = self.finished(called(path.stem), out.node)
        return Imported(str(path), found, weights, tuple(self.skipped), self.inexact, self._widths(found), self.origins)

    def _widths(self, graph: Graph) -> tuple[BitWidths, ...]:
        numbers = dict(graph.storage.tensors)
        tensors: dict[int, int] = {}
        for name, bits in self.stored_bits.items():
            if name in numbers:
                tensors.setdefault(numbers[name], bits)
        wiring = graph.wiring()
        return tuple(
            BitWidths(tensors.get(read), self.kernel_bits.get(node.name), tensors.get(written))
            for node, read, written in zip(graph.kernels, wiring.reads, wiring.writes, strict=True)
        )


def read_network(path: str | Path) -> Imported:
    """The network in an ONNX file. Raises `InputError` naming the file, and the node with its op where one is not
    supported."""
    return Reader(read_file(Path(path))).read()
