"""Cost tables: every entry against brute force, and the files that keep them.

Guards: README.md, "What is exact, and what is a model"; docs/MODEL.md, "11.6 Termination and best".
"""

from __future__ import annotations

import dataclasses
import gzip
import multiprocessing
import warnings
from pathlib import Path

import numpy as np
import pytest
from recorder import Recorder

from mqjax.cost.exact.evaluator import analyse_mappings, evaluate
from mqjax.cost.packing import packing_table, widths_of
from mqjax.hw import load_arch
from mqjax.mapper.table import cost_table, entry_of, layer_table
from mqjax.mapspace.space import Mapspace
from mqjax.models import network_layers
from mqjax.types import BitWidths, Layer, all_widths


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("eyeriss", Layer(C=6, M=4, P=4, Q=3, name="pointwise")),
        ("eyeriss", Layer(C=8, M=1, R=3, S=3, P=6, Q=2, Wstride=2, shape="depthwise", name="depthwise")),
        ("simba", Layer(C=4, M=4, P=3, name="pointwise")),
        ("simba", Layer(C=1, M=4, R=3, P=3, name="forwarding")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_entry_equals_brute_force(name, layer, archs):
    """All 344 entries by all metrics: the least cost over every nominal mapping, one after the other."""
    arch = archs[name]
    space = Mapspace(arch, layer)
    every = space.arrays(list(range(space.size)))
    analysed = list(analyse_mappings(arch, [layer] * space.size, every))
    table = layer_table(arch, layer)
    assert table.covered and 30 < space.size < 200_000
    seen: dict[bytes, list[float]] = {}
    for entry, bits in enumerate([*all_widths(), BitWidths()]):
        packing = packing_table(arch, bits)
        if packing.tobytes() not in seen:
            least = [np.inf] * 3
            for part in analysed:
                validity, priced = part.cost(arch, widths_of(arch, bits))
                energy, cycles = priced.energy_pj[validity.valid], priced.cycles[validity.valid].astype(float)
                of_part = (np.min(values, initial=np.inf) for values in (energy, energy * cycles, cycles))
                least = [min(pair) for pair in zip(least, of_part, strict=True)]
            seen[packing.tobytes()] = least
        expected = seen[packing.tobytes()]
        assert [table.value(metric)[entry] for metric in ("energy", "edp", "delay")] == expected
        assert (table.valid[entry] > 0) == np.isfinite(expected[0])
    for bits in (BitWidths(), BitWidths(8, 8, 8), BitWidths(2, 5, 3)):
        for m, metric in enumerate(("energy", "edp", "delay")):
            again = evaluate(arch, layer, bits, [table.mappings[table.index[m, entry_of(bits)]]])
            assert again.valid[0] and again.metric(metric)[0] == table.value(metric)[entry_of(bits)]


def test_depthwise_layers_as_dense_ones_cost_more(archs):
    """`--depthwise dense` counts a depthwise layer as a convolution over all channels, as the paper's runs do."""
    channelwise, dense = (
        network_layers("mobilenetv1", width_multiplier=0.25, resolution=32, depthwise=depthwise)[1:2]
        for depthwise in ("channelwise", "dense")
    )
    assert channelwise[0].shape == "depthwise" and dense[0].shape == "cnn" and dense[0].macs == 8 * channelwise[0].macs
    tables = [cost_table(archs["eyeriss"], layers) for layers in (channelwise, dense)]
    assert all(table.covered for table in tables)
    assert (tables[1].best["energy"] > tables[0].best["energy"]).all()


def tabulate(cache: Path) -> None:
    warnings.simplefilter("error")
    layer_table(load_arch("eyeriss"), Layer(C=4, M=8, P=4, Q=4), cache=cache)


def test_processes_at_once_do_no_harm(tmp_path, archs):
    """Four processes compute and keep the same table at the same time."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=tabulate, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = layer_table(archs["eyeriss"], Layer(C=4, M=8, P=4, Q=4), cache=tmp_path)
    fresh = layer_table(archs["eyeriss"], Layer(C=4, M=8, P=4, Q=4))
    np.testing.assert_array_equal(kept.energy_pj, fresh.energy_pj)
    assert kept.mappings == fresh.mappings


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:100])


def damage_foreign(path):
    path.write_text("a shopping list")


def damage_changed(path):
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("1", "2", 40).encode()))


@pytest.mark.parametrize("damage", [damage_truncated, damage_foreign, damage_changed])
def test_damaged_table_is_noticed_named_and_made_again(damage, tmp_path, archs):
    layer = Layer(C=4, M=8, P=4, Q=4)
    good = layer_table(archs["eyeriss"], layer, cache=tmp_path)
    (path,) = (tmp_path / "tables").glob("*.json.gz")
    damage(path)
    with pytest.warns(UserWarning, match=path.name):
        again = layer_table(archs["eyeriss"], layer, cache=tmp_path)
    assert (again.energy_pj == good.energy_pj).all() and again.mappings == good.mappings
    third = layer_table(archs["eyeriss"], layer, cache=tmp_path)
    assert (third.valid == good.valid).all() and third.sizes == good.sizes


def test_table_depends_on_the_accelerator_by_value(tmp_path, archs):
    layer = Layer(C=4, M=8, P=4, Q=4)
    renamed = dataclasses.replace(archs["eyeriss"], name="other")
    dearer = dataclasses.replace(archs["eyeriss"], mac=dataclasses.replace(archs["eyeriss"].mac, energy_pj=9.0))
    layer_table(archs["eyeriss"], layer, cache=tmp_path)
    cheap = layer_table(renamed, layer, cache=tmp_path)
    assert len(list(tmp_path.rglob("*.json.gz"))) == 1
    assert (layer_table(dearer, layer, cache=tmp_path).energy_pj[0] > cheap.energy_pj[0]).all()
    assert len(list(tmp_path.rglob("*.json.gz"))) == 2


def test_equal_layers_are_tabulated_once(archs):
    seen = Recorder()
    layers = [Layer(C=4, M=8, P=4, Q=4, name="a"), Layer(C=8, M=8), Layer(C=4, M=8, P=4, Q=4, name="b")]
    table = cost_table(archs["eyeriss"], layers, progress=seen)
    assert seen.done == 2 and list(table.index) == [0, 1, 0]
    assert {note.split(":")[0] for note in seen.notes} == {"a", "layer"}
    assert table.best["energy"].shape == (2, 7, 7, 7)
