"""The designs in hw/ that are no copies of the paper's: what their papers say of them, and spaces that can be covered.

Guards: docs/ARCHITECTURE_FORMAT.md, "`constraints`".
"""

from __future__ import annotations

import pytest

from mqjax.hw import load_arch
from mqjax.mapper.best import best_mappings
from mqjax.mapspace.padding import padded_or_itself
from mqjax.mapspace.space import Mapspace
from mqjax.models import network_layers
from mqjax.types import BitWidths, Layer

DESIGNS = ("tpu", "shidiannao", "nvdla_large", "nvdla_small")
COVERED_MOST = 1.3e8
"""Distinct mappings, beyond which a space is searched and called not proven."""


def test_sizes_are_the_published_ones():
    arches = {name: load_arch(name) for name in DESIGNS}
    assert {name: arch.mac.instances for name, arch in arches.items()} == {
        "tpu": 65536, "shidiannao": 64, "nvdla_large": 2048, "nvdla_small": 64,
    }  # fmt: skip
    kib = {
        (name, level.name): level.capacity_words * level.word_bits * level.instances / 8192
        for name, arch in arches.items()
        for level in arch.levels
        if level.capacity_words is not None
    }
    assert kib["tpu", "accumulators"] == 4096 and kib["tpu", "unified_buffer"] == 24 * 1024
    assert kib["tpu", "weight_fifo"] == 256 and kib["nvdla_large", "convolution_buffer"] == 512
    assert kib["shidiannao", "input_buffer"] == kib["shidiannao", "output_buffer"] == 64
    assert kib["shidiannao", "weight_buffer"] == 128 and kib["nvdla_small", "convolution_buffer"] == 128


@pytest.mark.parametrize("name", DESIGNS)
def test_spaces_of_mobilenet_can_be_covered(name):
    arch = load_arch(name)
    for layer in dict.fromkeys(network_layers("mobilenetv1")):
        space = Mapspace(arch, padded_or_itself(arch, layer))
        assert 0 < space.size < COVERED_MOST, layer.name


@pytest.mark.parametrize("name", ("shidiannao", "nvdla_small"))
def test_dataflow_and_proof(name):
    """What the design keeps still stays in the innermost level while the rest moves, and the best mapping is proven."""
    arch = load_arch(name)
    layer = Layer(C=16, M=32, P=8, Q=8)
    best = best_mappings(arch, layer, BitWidths(8, 8, 8))[0]["energy"]
    assert best.covered
    inner, *_ = best.mapping
    moved = {dim for dim, bound in inner["temporal"] if bound > 1}
    assert moved <= ({"C", "R", "S"} if name == "shidiannao" else {"N", "P", "Q"}) and moved
    spatial = {dim for level in best.mapping for dim, bound, _ in level["spatial"] if bound > 1}
    assert spatial == ({"P", "Q"} if name == "shidiannao" else {"C", "M"})
