"""MobileNet weights from Keras and PyTorch, given as .npz or .safetensors.

Keras: arrays named LAYER/VARIABLE, as `{f"{l.name}/{w.name}": w.numpy() for l in model.layers for w in l.weights}` gives
them for `keras.applications.MobileNet` and `MobileNetV2` (names of Keras 3). Keras pads layers of stride 2 at the
bottom and right only, mqjax on all sides, so there a tensor is shifted by one pixel: calibrate or train anew.

PyTorch: the state dict of torchvision's `mobilenet_v2`, or of a sequential MobileNetV1 (model.N.M.*, fc.*). Its images are
normalised by ImageNet's mean and deviation, which goes into the first layer, exactly but for the border of the image.
Its batch norms add 1e-5 to the variance, ours 1e-3; the scale makes up for it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mqjax.errors import InputError
from mqjax.models.graph import Graph, Node
from mqjax.models.network import EPSILON, Network

TORCH_EPSILON = 1e-5

ARRAYS_MOST = 2**31
"""Of the arrays of a file, unpacked."""

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

_NORM = {
    "keras": ("gamma", "beta", "moving_mean", "moving_variance"),
    "torch": ("weight", "bias", "running_mean", "running_var"),
}


def load_weights(path: str | Path, architecture: Graph) -> Network:
    """The network of this architecture with the weights in a .npz or .safetensors file; Keras or PyTorch by the names.

    Raises `InputError` naming the file and the array where one is missing or of another shape.
    """
    path = Path(path)
    arrays = read_arrays(path)
    source = "keras" if any("/" in name for name in arrays) else "torch"

    def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in arrays:
            raise InputError(f"{path}: the array {name!r} of a {source} {architecture.name} is missing")
        # Sources differ in dimensions of 1 only.
        if [n for n in arrays[name].shape if n > 1] != [n for n in shape if n > 1]:
            wanted = "x".join(map(str, shape))
            raise InputError(f"{path}: {name!r} has the shape {list(arrays[name].shape)}, which does not fit {wanted}")
        return arrays[name].astype(np.float32)

    model = Network(architecture, rngs=nnx.Rngs(0))
    for node, (layer, norm) in zip(architecture.kernels, _names(source, architecture), strict=True):
        block = model.blocks[node.name]
        kernel = _arranged_kernel(source, architecture, node, layer, array)
        shift = 0.0
        if source == "torch" and node is architecture.kernels[0] and architecture.channels == 3:
            # Our pixel x is theirs times 2 deviations, plus a constant that each channel's weights sum up.
            shift = np.einsum("rscm,c->m", kernel, (0.5 - MEAN) / DEVIATION)
            kernel = kernel / (2 * DEVIATION[:, None])
        block.kernel[...] = jnp.asarray(kernel, jnp.float32)
        separator = "/" if source == "keras" else "."
        outputs = kernel.shape[-1]
        if not block.normed:
            block.bias[...] = jnp.asarray(array(f"{layer}{separator}bias", (outputs,)))
            continue
        scale, bias, mean, var = (array(f"{norm}{separator}{part}", (outputs,)) for part in _NORM[source])
        if source == "torch":
            scale = scale * np.sqrt((var + EPSILON) / (var + TORCH_EPSILON))
        for part, value in {"scale": scale, "bias": bias, "mean": mean - shift, "var": var}.items():
            getattr(block.norm, part)[...] = jnp.asarray(value, jnp.float32)
    return model


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays in a .npz or .safetensors file. Raises `InputError` where it is neither or damaged."""
    if not path.exists():
        raise InputError(f"no weights in {path}: the file does not exist")
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > ARRAYS_MOST:
                raise ValueError(f"its arrays of {size} bytes are larger than {ARRAYS_MOST}")
            with np.load(path) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
    except Exception as error:  # zip, NumPy and safetensors raise many kinds
        raise InputError(f"{path} cannot be read: {error}") from None
    raise InputError(f"{path} must be a .npz or a .safetensors file")


def _arranged_kernel(
    source: str, graph: Graph, node: Node, layer: str, array: Callable[[str, tuple[int, ...]], np.ndarray]
) -> np.ndarray:
    """A layer's kernel, as [S, R, C, M]."""
    size, _, inputs, outputs = graph.kernel_shape(node)
    if source == "keras":
        # Depthwise kernels come as [S, R, C, 1], dense ones as [C, M]; the order in memory is ours.
        return array(f"{layer}/kernel", (size, size, inputs, outputs)).reshape(size, size, inputs, outputs)
    found = array(f"{layer}.weight", (outputs, inputs, size, size)).reshape(outputs, inputs, size, size)
    return found.transpose(2, 3, 1, 0)


def _names(source: str, architecture: Graph) -> list[tuple[str, str]]:
    """Names of every layer and its batch norm."""
    if architecture.name not in ("mobilenetv1", "mobilenetv2"):
        raise InputError(
            f"weights of {architecture.name!r} cannot be imported, only those of mobilenetv1 and mobilenetv2"
        )
    if architecture.name == "mobilenetv1":
        if source == "keras":
            return [_keras_v1(node.name) for node in architecture.kernels]
        blocks = (len(architecture.kernels) - 2) // 2
        pairs = [((f"model.{n}.0", f"model.{n}.1"), (f"model.{n}.3", f"model.{n}.4")) for n in range(1, blocks + 1)]
        return [("model.0.0", "model.0.1"), *(pair for both in pairs for pair in both), ("fc", "")]
    return [(_keras_v2 if source == "keras" else _torch_v2)(node, architecture) for node in architecture.kernels]


def _keras_v1(name: str) -> tuple[str, str]:
    if name == "conv1":
        return "conv1", "conv1_bn"
    if name == "fc":
        return "conv_preds", ""
    layer = f"conv_{name[:2]}_{name[2:]}"
    return layer, f"{layer}_bn"


def _keras_v2(node: Node, architecture: Graph) -> tuple[str, str]:
    fixed = {"conv1": ("Conv1", "bn_Conv1"), "conv_last": ("Conv_1", "Conv_1_bn"), "fc": ("predictions", "")}
    if node.name in fixed:
        return fixed[node.name]
    part, number = node.name.rstrip("0123456789"), int("".join(filter(str.isdigit, node.name)))
    block = "expanded_conv" if number == 1 else f"block_{number - 1}"
    layer = f"{block}_{'depthwise' if part == 'dw' else part}"
    return layer, f"{layer}_BN"


def _torch_v2(node: Node, architecture: Graph) -> tuple[str, str]:
    blocks = sum(map(architecture.depthwise, architecture.kernels))
    fixed = {"conv1": "features.0", "conv_last": f"features.{blocks + 1}"}
    if node.name in fixed:
        return f"{fixed[node.name]}.0", f"{fixed[node.name]}.1"
    if node.name == "fc":
        return "classifier.1", ""
    part, number = node.name.rstrip("0123456789"), int("".join(filter(str.isdigit, node.name)))
    first = 0 if any(other.name == f"expand{number}" for other in architecture.kernels) else -1
    at = f"features.{number}.conv"
    if part == "project":
        return f"{at}.{first + 2}", f"{at}.{first + 3}"
    place = 0 if part == "expand" else first + 1
    return f"{at}.{place}.0", f"{at}.{place}.1"
