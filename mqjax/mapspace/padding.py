"""Layers with larger bounds: dimensions that fixed factors do not divide are padded, as hardware does.

A padded layer costs what its padded bounds cost: multiplications by zeros included.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.mapspace.mapping import Record, mapped_bounds, mapped_layer
from mqjax.mapspace.space import Mapspace
from mqjax.types import Layer


def padded(arch: Arch, layer: Layer, *, constraints: str = "paper") -> Layer:
    """`layer` with every bound that the fixed factors of `constraints` do not divide raised to the next that they do.

    Raises `InputError` where no bound would do.
    """
    return dataclasses.replace(layer, **{d: bounds_to_try(arch, layer, constraints, d)[0] for d in layer.loops})


def padded_or_itself(arch: Arch, layer: Layer, *, constraints: str = "paper", pad: int | None = 0) -> Layer:
    """`padded` or, where `pad` is `None`, the layer itself. Raises `InputError` where it cannot be mapped so."""
    if pad is None:
        Mapspace(arch, layer, constraints=constraints).tables  # noqa: B018 - raises
        return layer
    return padded(arch, layer, constraints=constraints)


def with_bounds_of(layer: Layer, mapping: Record) -> Layer:
    """`layer` with those bounds of a mapping that are larger: the layer as that mapping pads it."""
    bounds = mapped_bounds(mapping)
    larger = {d: n for d, n in bounds.items() if n > layer.dims.get(d, n)}
    return Layer.from_dims({**layer.dims, **larger}, shape=layer.shape, name=layer.name)


def mapped_as(layer: Layer, mapped: Layer) -> dict[str, int]:
    """The bounds by dimension, as users name it, in which `mapped` exceeds `layer`."""
    return {d: n for d, n in mapped.dims.items() if d in layer.projection.named and n != layer.dims[d]}


def padding_of(layer: Layer, mappings: Sequence[Record]) -> str:
    """Words for the bounds of mappings that exceed the layer's: "M=10 mapped as 12", or as "12 or 16"."""
    bounds = [mapped_layer(layer, mapping).dims for mapping in mappings]
    texts = []
    for d in layer.projection.named:
        found = sorted({of_mapping[d] for of_mapping in bounds})
        if found and found[-1] > layer.dims[d]:
            texts.append(f"{d}={layer.dims[d]} mapped as {' or '.join(map(str, found))}")
    return ", ".join(texts)


def describe_padding(layer: Layer, bounds: dict[str, int]) -> str:
    """Words for `mapped_as`: "M=10 mapped as 12"; empty where nothing is padded."""
    return ", ".join(f"{d}={layer.dims[d]} mapped as {bound}" for d, bound in bounds.items())


def bounds_to_try(arch: Arch, layer: Layer, constraints: str, dim: str, pad: int = 0) -> list[int]:
    """Bounds of a dimension that can be factorised: its own or the next larger one, and the others up to `pad` more.

    Raises `InputError` where there is none.
    """
    bound = getattr(layer, dim)
    space = Mapspace(arch, layer, constraints=constraints)
    # Fixed factors may also multiply to more than the bound; then they are the next bound that they divide.
    factors = math.prod(level.factors.get(dim) or 1 for level in space.tiling)
    last = -(-bound // factors) * factors
    if any(dim in level.max_factors for level in space.tiling):
        # Where no level takes any factor, a power of 2 may do, of which there is one below twice the bound.
        last *= 2
    larger = range(bound, max(bound + (pad if bound > 1 else 0), last) + 1)
    possible = []
    for n in larger:
        # Beyond the bounds that are asked for, the first that does ends the search.
        if possible and n > bound + pad:
            break
        if space.divides(layer.loops.index(dim), n):
            possible.append(n)
    if not possible:
        space.tables  # noqa: B018 - raises the error that says which factors cannot be met
        raise InputError(
            f"layer {layer.name!r} on {arch.name!r}: no bound of {dim} meets the fixed factors and upper bounds"
        )
    return [n for n in possible if n == possible[0] or n <= bound + pad]
