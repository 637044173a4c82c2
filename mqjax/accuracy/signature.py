"""The text by which caches know a network's architecture."""

from __future__ import annotations

from mqjax.models.graph import Graph
from mqjax.models.ops import Activation, Conv

PLAIN = ("mobilenetv1", "mobilenetv2")
"""Networks whose accuracies were cached when they were lists of layers: their text is still that of the list."""


def signature(graph: Graph) -> str:
    """A text that is equal for equal architectures only."""
    if graph.name not in PLAIN:
        return repr(graph)
    writers = {stage.result: stage.layer for stage in graph.storage.stages}
    convs = []
    for node, stage in zip(graph.kernels, graph.storage.stages, strict=True):
        size, _, _, outputs = graph.kernel_shape(node)
        kind, stride = "fc", 1
        if isinstance(node.op, Conv):
            kind, stride = "dw" if graph.depthwise(node) else "pw" if size == 1 else "conv", node.op.stride
        relu = any(isinstance(graph[name].op, Activation) for name in stage.fused)
        added = [writers[other] for others in stage.adds for other in others]
        convs.append(
            f"Conv(name={node.name!r}, kind={kind!r}, inputs={graph.input_shape(node)[-1]}, outputs={outputs}, "
            f"kernel={size}, stride={stride}, relu={relu}, adds={added[0] if added else None!r})"
        )
    return (
        f"Architecture(name={graph.name!r}, convs=({', '.join(convs)}), resolution={graph.resolution}, "
        f"channels={graph.channels}, classes={graph.classes})"
    )
