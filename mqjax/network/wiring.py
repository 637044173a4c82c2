"""How a network's layers hang together for the mapper and the search: who reads and writes which stored tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from mqjax.errors import InputError
from mqjax.types import WIDTHS, Layer

OUTPUT_WIDTH = 8
"""Bit-width of a network's output."""


def uniform_genomes(genes: int, widths: Sequence[int] = WIDTHS) -> np.ndarray:
    """For each of the widths the genome of so many genes that has it everywhere, int32 [widths, genes]."""
    return np.repeat(np.array(widths, np.int32)[:, None], genes, axis=1)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """The stored tensors of a network of L layers with kernels (convolutions and fully connected layers).

    A stored tensor is what memory keeps between layers at one bit-width: of T tensors the search chooses the width. Number
    T is the network's output, whose width is fixed (`OUTPUT_WIDTH`).

    A genome lists, layer by layer, the widths of the stored tensors that no earlier layer has read, then the width of the
    layer's kernel. In a chain these are L pairs (input, weight).
    """

    layers: tuple[str, ...]
    """Names of the layers in the order in which they run."""

    tensors: tuple[str, ...]
    """Names of the T stored tensors, in the order of their genes."""

    reads: tuple[int, ...]
    """Tensor that each layer reads as its Inputs, in 0..T-1."""

    writes: tuple[int, ...]
    """Tensor that each layer writes as its Outputs, in 0..T."""

    first: tuple[int, ...]
    """Number of the first layer that reads each of the T tensors, be it only to add it to its own sums; ascending."""

    live: tuple[tuple[int, ...], ...]
    """`[L][T + 1]`: elements of each tensor (for one image) that memory holds while a layer runs, its Inputs and Outputs
    included."""

    @classmethod
    def chain(cls, layers: Sequence[Layer]) -> Wiring:
        """Layers of which each reads what the one before it wrote."""
        count = len(layers)
        live = [[0] * (count + 1) for _ in layers]
        for number, layer in enumerate(layers):
            live[number][number] = layer.elements("Inputs")
            live[number][number + 1] = layer.elements("Outputs")
        return cls(
            layers=tuple(layer.name for layer in layers),
            tensors=tuple(f"{layer.name}_input" for layer in layers),
            reads=tuple(range(count)),
            writes=tuple(range(1, count + 1)),
            first=tuple(range(count)),
            live=tuple(map(tuple, live)),
        )

    @cached_property
    def genes(self) -> int:
        """Length of a genome: T + L."""
        return len(self.tensors) + len(self.layers)

    @cached_property
    def tensor_genes(self) -> np.ndarray:
        """Where in a genome each tensor's width stands, int64 [T]."""
        return np.arange(len(self.tensors)) + np.array(self.first, np.int64)

    @cached_property
    def kernel_genes(self) -> np.ndarray:
        """Where in a genome each layer's kernel width stands, int64 [L]."""
        layers = np.arange(len(self.layers))
        return layers + np.searchsorted(np.array(self.first), layers, side="right")

    @property
    def uniform(self) -> np.ndarray:
        """The genomes whose widths are all alike, int32 [7, T + L], one for each of 2..8."""
        return uniform_genomes(self.genes)

    @property
    def pairs(self) -> bool:
        """Whether every layer is the first to read one tensor, so that a genome is L pairs (input, weight)."""
        return self.first == tuple(range(len(self.layers)))

    def flat(self, genomes: np.ndarray) -> np.ndarray:
        """Genomes int [N, T + L], from these or, where they are pairs, from [N, L, 2]. Raises `InputError` for others."""
        genomes = np.asarray(genomes)
        if self.pairs and genomes.shape[1:] == (len(self.layers), 2):
            return genomes.reshape(len(genomes), self.genes)
        if genomes.ndim != 2 or genomes.shape[1] != self.genes:
            or_pairs = f" or [N, {len(self.layers)}, 2]" if self.pairs else ""
            raise InputError(f"genomes must have the shape [N, {self.genes}]{or_pairs}, not {list(genomes.shape)}")
        return genomes

    def checked(self, genomes: np.ndarray) -> np.ndarray:
        """`flat` genomes whose widths lie in 2..8. Raises `InputError` for others."""
        genomes = self.flat(genomes)
        if genomes.size and not (genomes.min() >= WIDTHS[0] and genomes.max() <= WIDTHS[-1]):
            raise InputError(f"bit-widths must lie in {WIDTHS[0]}..{WIDTHS[-1]}")
        return genomes

    def shaped(self, genomes: np.ndarray) -> np.ndarray:
        """Flat genomes as people read them: [N, L, 2], input and weight width, where `pairs`; else as they are."""
        return genomes.reshape(len(genomes), len(self.layers), 2) if self.pairs else genomes
