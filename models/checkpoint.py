"""Trained networks on disk: an orbax checkpoint of the weights and a JSON file that says what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from mqjax.errors import InputError, meant
from mqjax.io.files import write_atomically
from mqjax.models.files import has_weights, load_network, with_weights
from mqjax.models.graph import Graph
from mqjax.models.graph_json import graph_from_json, graph_to_json
from mqjax.models.network import Network
from mqjax.models.networks import NETWORKS, architecture
from mqjax.models.qat import Fixed, QuantizedNetwork, Step, quantize
from mqjax.models.quantization import Quantized

SHIPPED = Path(__file__).parent / "checkpoints"


def save_checkpoint(folder: Path, model: Network | QuantizedNetwork, about: dict[str, Any]) -> None:
    """Write the weights of `model` to folder/weights, and `about` with the architecture's sizes to folder/model.json.

    Of a quantized network the weights go there without rounding, and its grids, widths and steps to folder/grids.
    model.json is written last: a folder without it is torn.
    """
    folder = Path(folder).absolute()
    (folder / "model.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "grids", ignore_errors=True)
    arch = model.architecture
    network = model.network if isinstance(model, QuantizedNetwork) else model
    state = nnx.to_pure_dict(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "weights", state, force=True)
        if isinstance(model, QuantizedNetwork):
            checkpointer.save(folder / "grids", nnx.to_pure_dict(nnx.state(model, (Step, Fixed))), force=True)
    sizes = {"resolution": arch.resolution, "classes": arch.classes, "channels": arch.channels}
    content = {"network": arch.name, **sizes, **about}
    if arch.name not in NETWORKS:
        content["graph"] = graph_to_json(arch)
    write_atomically(folder / "model.json", json.dumps(content, indent=1) + "\n")


def load_checkpoint(folder: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network in a checkpoint folder, or a shipped one by its name, and what model.json says about it. Of a quantized
    network this is the one with unrounded weights (see `load_quantized`).

    An ONNX file or a module of Flax is a checkpoint, too: its weights come along, and it says nothing of its training.

    Raises `InputError` naming the folder where it is missing, torn or of another network.
    """
    if has_weights(str(folder)):
        imported = load_network(str(folder)).imported
        assert imported is not None
        model = with_weights(imported)
        arch = model.architecture
        sizes = {"resolution": arch.resolution, "classes": arch.classes, "channels": arch.channels}
        return model, {"network": arch.name, "width_multiplier": 1.0, **sizes, "dataset": None}
    path = _resolved(folder)
    if not (path / "model.json").exists():
        shipped = sorted(p.name for p in SHIPPED.glob("*") if p.is_dir())
        near = meant(Path(folder).name, shipped)
        raise InputError(f"no checkpoint in {path} (it has no model.json); shipped ones are {', '.join(shipped)}{near}")
    try:
        about = json.loads((path / "model.json").read_text())
        network = _graph(about)
        # Shapes alone: drawing initial weights only to replace them would cost seconds.
        model = nnx.eval_shape(lambda: Network(network, rngs=nnx.Rngs(0)))
        state = nnx.state(model, (nnx.Param, nnx.BatchStat))
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), nnx.to_pure_dict(state)
        )
        with ocp.StandardCheckpointer() as checkpointer:
            # Before any read: orbax leaves those that fail unfinished, and Python complains of each one.
            stored = jax.tree.leaves_with_path(checkpointer.metadata(path / "weights").item_metadata.tree)
            if difference := dict(_leaf_shapes(stored) ^ _leaf_shapes(jax.tree.leaves_with_path(template))):
                raise ValueError(f"{min(difference)} has another shape or is on one side only")
            restored = checkpointer.restore(path / "weights", template)
    except InputError as error:
        raise InputError(f"the checkpoint in {path}: {error}") from None
    except Exception as error:  # orbax and tensorstore raise many kinds for a torn checkpoint
        raise _torn(path, error) from None
    # As plain arrays: programs compiled for freshly made networks then serve loaded ones, too.
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), restored))
    nnx.update(model, state)
    return model, about


def load_quantized(folder: str | Path) -> tuple[Quantized, Network, dict[str, Any]]:
    """The quantized network that `mqjax train --bits` left in a folder, ready for `forward` or integers; its network with
    unrounded weights; and what model.json says. Raises `InputError` as `load_checkpoint` does."""
    model, about = load_checkpoint(folder)
    path = _resolved(folder) / "grids"
    if not path.exists():
        raise InputError(f"the checkpoint in {path.parent} is of a float network: it has no grids")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            grids = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), checkpointer.restore(path))
        kernel_steps = {node.name: grids["kernel_steps"][node.name] for node in model.architecture.kernels}
        network = quantize(model, kernel_steps, grids["steps"], grids["zeros"], grids["widths"], grids["signed"])
    except Exception as error:
        raise _torn(path, error) from None
    return network, model, about


def _resolved(folder: str | Path) -> Path:
    """A checkpoint's folder: itself, that of a run of `mqjax train`, or a shipped one's by its name."""
    path = Path(folder)
    if not path.exists() and (SHIPPED / str(folder)).exists():
        path = SHIPPED / str(folder)
    if not (path / "model.json").exists() and (path / "checkpoint" / "model.json").exists():
        path = path / "checkpoint"
    return path.absolute()


def _graph(about: dict[str, Any]) -> Graph:
    """The graph of a checkpoint: written out, or that of a named network at its sizes."""
    if "graph" in about:
        return graph_from_json(about["network"], about["graph"])
    sizes = {key: about[key] for key in ("width_multiplier", "resolution", "classes", "channels")}
    return architecture(about["network"], **sizes)


def _leaf_shapes(leaves: list[tuple[Any, Any]]) -> set[tuple[str, tuple[int, ...]]]:
    return {(jax.tree_util.keystr(path, simple=True, separator="/"), tuple(leaf.shape)) for path, leaf in leaves}


def _torn(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"the checkpoint in {path} is torn or of another network: {reason}")
