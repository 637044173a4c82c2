"""A member's network with weights and grids: QONNX, plain ONNX, and encodings of AIMET for the latter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mqjax.models.onnx.writer import float_model, quantized_model

if TYPE_CHECKING:
    from mqjax.export.member import Member
    from mqjax.models.graph import Graph
    from mqjax.models.quantization import Quantized


def qonnx(member: Member) -> bytes:
    """The quantized network as QONNX, which qonnx, FINN, hls4ml and Brevitas' tools read."""
    network, quantized = member.trained
    return quantized_model(network.architecture, quantized).SerializeToString(deterministic=True)


def onnx(member: Member) -> bytes:
    """The float network as ONNX, batch norms folded in: what the encodings of `aimet` are for."""
    network, _ = member.trained
    return float_model(network, folded=True).SerializeToString(deterministic=True)


def aimet(member: Member) -> str:
    """Encodings 1.0.0 of AIMET for the file of `onnx`: aimet_onnx.quantsim.load_encodings_to_sim(sim, FILE, strict=False)."""
    network, quantized = member.trained
    return json.dumps(encodings(network.architecture, quantized), indent=1) + "\n"


def encodings(graph: Graph, network: Quantized) -> dict[str, Any]:
    """Grids of every kernel and stored value, under the names of tensors in `float_model` with folded batch norms."""
    signed = bool(network.signed)

    def entry(
        name: str, kind: str, bits: int, steps: np.ndarray, offsets: np.ndarray, symmetric: bool
    ) -> dict[str, Any]:
        return {
            "name": name,
            "enc_type": kind,
            "dtype": "INT",
            "bw": bits,
            "is_sym": symmetric,
            "scale": [float(step) for step in steps],
            "offset": [int(offset) for offset in offsets],
        }

    parameters = []
    for number, node in enumerate(graph.kernels):
        bits = int(network.kernel_widths[number])
        steps = np.broadcast_to(np.asarray(network.kernel_steps[node.name]), graph.kernel_shape(node)[-1:])
        # A symmetric grid without its lowest integer.
        offsets = np.full(len(steps), 1 - 2 ** (bits - 1))
        parameters.append(entry(f"{node.name}.weight", "PER_CHANNEL", bits, steps, offsets, True))
    activations = []
    for name, number in graph.storage.tensors:
        bits = int(network.tensor_widths[number])
        offset = 1 - 2 ** (bits - 1) if signed else -int(network.zeros[number])
        step = np.asarray(network.steps[number]).reshape(1)
        activations.append(entry(name, "PER_TENSOR", bits, step, np.array([offset]), signed))
    return {"version": "1.0.0", "activation_encodings": activations, "param_encodings": parameters}
