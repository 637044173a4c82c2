"""Widths as settings of quantization tools: each function writes what its tool reads, as far as widths go.

Every tool knows layers by names of its own. Here they are those of the network, with PyTorch's where the network came from
a file that PyTorch wrote; rename them where yours differ.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mqjax.export.member import LayerWidths, Member
from mqjax.models.ops import Activation, Conv


def neutral(member: Member) -> dict[str, Any]:
    """Our own form, for tools that are none of these; widths.schema.json beside this file describes it."""
    return {
        "format": "mqjax-widths-1",
        "network": member.settings["network"],
        "arch": member.arch,
        "member": member.number,
        "objectives": member.entry["objectives"],
        "test_accuracy": member.entry.get("test_accuracy"),
        "layers": {
            layer.name: {"input": layer.input, "weight": layer.weight, "output": layer.output}
            for layer in member.layers
        },
    }


def brevitas(member: Member) -> dict[str, Any]:
    """Keyword arguments of Brevitas' layers by module: QuantConv2d(..., **settings["conv1"]). They take effect together with
    quantizers for inputs and outputs (input_quant, output_quant), which Brevitas leaves out by default."""
    return {
        layer.module: {
            "weight_bit_width": layer.weight,
            "input_bit_width": layer.input,
            "output_bit_width": layer.output,
        }
        for layer in member.layers
    }


def torchao(member: Member) -> dict[str, Any]:
    """A configuration of torchao: quantize_(model, config_from_dict(settings), filter_fn=None). Weights alone, with a step per
    output channel (in convolutions also per position of the kernel); torchao has no activations of these widths. Kernels of one
    input channel, depthwise ones above all, are null, that is, left in float: torchao 0.18 fails on them.
    IntxWeightOnlyConfig is of version 2 (torchao 0.14 and later)."""
    kernels = (
        {} if member.graph is None else {node.name: member.graph.kernel_shape(node) for node in member.graph.kernels}
    )

    def of(layer: LayerWidths) -> dict[str, Any] | None:
        shape = kernels.get(layer.name)
        if shape is not None and shape[2] == 1:
            return None
        dtype = {"_type": "torch.dtype", "_data": f"int{layer.weight}"}
        axis = {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
        return {"_type": "IntxWeightOnlyConfig", "_version": 2, "_data": {"weight_dtype": dtype, "granularity": axis}}

    layers = {layer.module: of(layer) for layer in member.layers}
    return {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": layers}}


def qkeras(member: Member) -> dict[str, Any]:
    """The dictionary quantizer_config of qkeras.utils.model_quantize: quantizers of kernels by layer, and of what each layer's
    activation gives, called as Keras' applications call theirs (conv1_relu). Integers have a scale per channel (alpha).
    QKeras quantizes what activations give: the outputs of a layer without one, or with another than ReLU, are left to you."""
    settings: dict[str, Any] = {}
    nodes = () if member.graph is None else member.graph.nodes
    activations = {node.inputs[0]: node.op.kind for node in nodes if isinstance(node.op, Activation)}
    for layer in member.layers:
        settings[layer.name] = {
            f"{_keras_kernel(member, layer)}_quantizer": f"quantized_bits({layer.weight},0,1,alpha='auto')"
        }
        if member.graph is None or activations.get(layer.name) == "relu":
            settings[f"{layer.name}_relu"] = f"quantized_relu({layer.output})"
    return settings


def _keras_kernel(member: Member, layer: LayerWidths) -> str:
    """What Keras calls a layer's weights."""
    graph = member.graph
    node = None if graph is None else {node.name: node for node in graph.kernels}.get(layer.name)
    return "depthwise" if graph is not None and node is not None and graph.depthwise(node) else "kernel"


def nncf(member: Member) -> dict[str, Any]:
    """A configuration of NNCF 2 (NNCFConfig.from_dict) with the widths of weights and of the image. Layers are found by
    regular expressions, since the classes on the way to one are known to the model's code alone.

    Activations stay at NNCF's own 8 bits. By scope, what NNCF calls them follows the model's code (relu_0, ReLU[act]/relu_0).
    By the layers that read them there are scope_overrides too, but NNCF 2.19 writes these into one configuration that all
    layers of a kind share, so that each gets the widths of another. TRIAL is its name for devices of any width."""
    graph, weights = member.graph, {}
    linear = set() if graph is None else {node.name for node in graph.kernels if not isinstance(node.op, Conv)}
    for layer in member.layers:
        *way, last = map(re.escape, layer.module.split("."))
        kind, call = ("NNCFLinear", "linear_0") if layer.name in linear else ("NNCFConv2d", "conv2d_0")
        path = "".join(rf"/[^/\[]+\[{part}\]" for part in way)
        weights[rf"{{re}}^[^/]+{path}/{kind}\[{last}\]/{call}$"] = {"bits": layer.weight}
    image = [member.layers[0].input, "/nncf_model_input_0|OUTPUT"]
    settings: dict[str, Any] = {
        "target_device": "TRIAL",
        "compression": {
            "algorithm": "quantization",
            "scope_overrides": {"weights": weights},
            "initializer": {"precision": {"type": "manual", "bitwidth_per_scope": [image]}},
        },
    }
    if graph is not None:
        settings["input_info"] = {"sample_size": [1, graph.channels, *graph.image_shape[:2]]}
    return settings


def as_text(settings: dict[str, Any]) -> str:
    """Settings as the JSON of a file."""
    return json.dumps(settings, indent=1, allow_nan=False) + "\n"
