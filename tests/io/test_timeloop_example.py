"""Timeloop's own examples of v0.4, against the counts and energies of the runs published with them.

Facts: sizes, energies, mappings and statistics of eyeriss_like (here), of simple_weight_stationary and of simba_like (golden/timeloop/
examples.yaml, as Timeloop's front end dumps them) in the examples of Timeloop and Accelergy, MIT licence.
Guards: docs/ARCHITECTURE_FORMAT.md, "From Timeloop".
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.timeloop import read_mapping
from mqjax.io.timeloop_arch import import_accelerator
from mqjax.mapper.best import best_mappings
from mqjax.show.explain import explain
from mqjax.types import BitWidths, Layer
from timeloop_imports import V04, imported_v04

ARCH = """\
architecture:
  version: 0.4
  nodes:
  - !Container {name: system}
  - !Component {name: DRAM, class: DRAM, attributes: {type: LPDDR4, width: 64, datawidth: 8}}
  - !Container {name: eyeriss, attributes: {technology: "32nm"}}
  - !Component
    name: shared_glb
    class: smartbuffer_SRAM
    attributes: {depth: 16384, width: 64, n_banks: 32, datawidth: 8, read_bandwidth: 16, write_bandwidth: 16}
    constraints:
      dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}
  - !Container
    name: PE_column
    spatial: {meshX: 14}
    constraints:
      spatial: {permutation: [N, C, P, R, S, Q, M], factors: [N=1, C=1, P=1, R=1, S=1], split: 999}
  - !Container
    name: PE
    spatial: {meshY: 12}
    constraints:
      spatial: {permutation: [N, P, Q, R, S, C, M], factors: [N=1, P=1, Q=1, R=1], split: 0}
  - !Parallel
    nodes:
    - !Component
      name: ifmap_spad
      class: smartbuffer_RF
      attributes: &spad {depth: 12, width: 16, datawidth: 8, read_bandwidth: 2, write_bandwidth: 2}
      constraints:
        dataspace: {keep: [Inputs]}
        temporal: {permutation: [N, M, C, P, Q, R, S], factors: [N=1, M=1, C=1, P=1, Q=1, R=1, S=1]}
    - !Component
      name: weights_spad
      class: smartbuffer_RF
      attributes: {<<: *spad, depth: 192}
      constraints:
        dataspace: {keep: [Weights]}
        temporal: {permutation: [N, M, P, Q, S, C, R], factors: [N=1, M=1, P=1, Q=1, S=1]}
    - !Component
      name: psum_spad
      class: smartbuffer_RF
      attributes: {<<: *spad, depth: 16, datawidth: 16}
      constraints:
        dataspace: {keep: [Outputs]}
        temporal: {permutation: [N, C, P, Q, R, S, M], factors: [N=1, C=1, R=1, S=1, P=1, Q=1]}
  - !Component {name: mac, class: intmac, attributes: {multiplier_width: 8, adder_width: 16}}
"""

READ_AND_WRITE = {
    "DRAM": (512.0, 512.0),
    "shared_glb": (18.183829, 14.137929),
    "ifmap_spad": (0.202442, 0.176713),
    "weights_spad": (1.976602, 1.881657),
    "psum_spad": (0.2513, 0.2191),
}
MAC_PJ = 0.207692

LAYER = Layer(C=3, M=32, R=3, S=3, P=112, Q=112, Wstride=2, Hstride=2)
MAPPING = """\
mapping:
- {target: psum_spad, type: datatype, keep: [Outputs], bypass: [Weights, Inputs]}
- {target: weights_spad, type: datatype, keep: [Weights], bypass: [Inputs, Outputs]}
- {target: ifmap_spad, type: datatype, keep: [Inputs], bypass: [Weights, Outputs]}
- {target: PE_column, type: datatype, keep: [], bypass: [Weights, Inputs, Outputs]}
- {target: shared_glb, type: datatype, keep: [Inputs, Outputs], bypass: [Weights]}
- {target: psum_spad, type: temporal, factors: M8, permutation: M}
- {target: weights_spad, type: temporal, factors: R3, permutation: R}
- {target: PE_column, type: spatial, factors: C3 S3, permutation: SC, split: 0}
- {target: shared_glb, type: spatial, factors: Q14, permutation: Q, split: 1}
- {target: shared_glb, type: temporal, factors: P14 Q4, permutation: QP}
- {target: DRAM, type: temporal, factors: M4 P8 Q2, permutation: MQP}
"""

PUBLISHED = {
    # reads, fills and updates per instance, energy of all instances in pJ
    ("DRAM", "Weights"): (13824, 0, 0, 884736.00),
    ("DRAM", "Inputs"): (157296, 0, 0, 10066944.00),
    ("DRAM", "Outputs"): (0, 0, 401408, 25690112.00),
    ("shared_glb", "Inputs"): (1354752, 157296, 0, 3357302.30),
    ("shared_glb", "Outputs"): (0, 0, 401408, 709384.73),
    ("ifmap_spad", "Inputs"): (86016, 10752, 0, 1216735.96),
    ("weights_spad", "Weights"): (86016, 1536, 0, 10893306.24),
    ("psum_spad", "Outputs"): (57344, 0, 86016, 4190338.25),
}


DUMPS = yaml.safe_load((Path(__file__).parents[1] / "golden" / "timeloop" / "examples.yaml").read_text())


def tables_of(energies):
    """ERT and ART of {component: (read, write)}, of the MACs {name: (operation,)}, pJ."""
    actions = {
        name: [("compute", found[0])] if len(found) == 1 else [("read", found[0]), ("write", found[1])]
        for name, found in energies.items()
    }
    ert = [
        {"name": f"top_level.{name}[1..168]", "actions": [{"name": action, "energy": pj} for action, pj in found]}
        for name, found in actions.items()
    ]
    return {"ERT": {"tables": ert}}, {"ART": {"tables": [{"name": row["name"], "area": 1.0} for row in ert]}}


@pytest.fixture
def folder(tmp_path):
    """The example's files, called as Timeloop calls what it writes."""
    (tmp_path / "eyeriss_like.yaml").write_text(ARCH)
    for name, table in zip(("ERT", "ART"), tables_of(READ_AND_WRITE | {"mac": (MAC_PJ,)}), strict=True):
        (tmp_path / f"timeloop-mapper.{name}.yaml").write_text(yaml.safe_dump(table))
    (tmp_path / "notes.yaml").write_text("no: architecture\n--- # and a second document")
    return tmp_path


def own(folder):
    """The import of a folder, read again, and what had no counterpart."""
    result = import_accelerator("example", folder, folder)
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / "example.yaml").write_text(yaml.safe_dump(result.document, sort_keys=False))
    return load_arch(folder / "own" / "example.yaml"), result.without_counterpart


def check_published(arch, mapping, published, cycles, macs, folder):
    """Compare what a mapping of `LAYER` counts with {(level, tensor): (reads, fills, updates, pJ)}."""
    (folder / "map.yaml").write_text(yaml.safe_dump({"mapping": mapping}))
    found = explain(arch, LAYER, BitWidths(), read_mapping(folder / "map.yaml", [level.name for level in arch.levels]))
    rows = {(level.name, row.tensor): row for level in found.levels for row in level.tensors if row.kept}
    for place, (reads, fills, updates, energy) in published.items():
        row = rows.pop(place)
        assert (row.reads, row.fills, row.updates) == (reads, fills, updates)
        assert row.energy_pj == pytest.approx(energy, abs=0.006)
    assert {level for level, _ in rows} <= {"DRAM"}  # which not all the statistics have
    assert (found.cycles, found.macs_used) == (cycles, macs)


def test_counts_and_energies_are_those_of_the_published_run(folder):
    arch, notes = own(folder)
    assert not notes
    mapping = yaml.safe_load(MAPPING)["mapping"]
    check_published(arch, mapping, PUBLISHED, 86016, 126, folder)
    words = {level.name: (level.capacity_words, level.block_words, level.cluster) for level in arch.levels}
    assert words["shared_glb"] == (131072, 8, 1) and words["weights_spad"] == (384, 2, 1)
    assert words["DRAM"] == (None, 8, 1) and words["psum_spad"] == (16, 1, 1)


@pytest.mark.parametrize("name", DUMPS)
def test_dumped_examples_count_as_in_their_published_runs(name, tmp_path):
    example = DUMPS[name]
    dumped = {
        "architecture": {"version": "0.4", "subtree": [{"name": "top_level", "local": example["local"]}]},
        "architecture_constraints": {"targets": example["targets"]},
    }
    for stem, content in zip(("dumped", "ERT", "ART"), (dumped, *tables_of(example["energies"])), strict=True):
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(content))
    published = {
        (level, tensor): counts for level, rows in example["published"].items() for tensor, counts in rows.items()
    }
    arch, _ = own(tmp_path)
    check_published(arch, example["mapping"], published, example["cycles"], example["macs"], tmp_path)


def test_mappings_as_v04_writes_them(tmp_path):
    names = [*READ_AND_WRITE, "PE_column"]
    (tmp_path / "old.yaml").write_text(MAPPING)
    new = MAPPING.replace("datatype", "dataspace").replace("split: 1", "split: 999").replace("keep: [], ", "")
    for old, listed in (("C3 S3", "[C=3, S=3]"), ("permutation: QP", "permutation: [Q, P]"), ("P14 Q4", '"P=14,Q=4"')):
        new = new.replace(old, listed)
    (tmp_path / "new.yaml").write_text(new)
    assert read_mapping(tmp_path / "new.yaml", names) == read_mapping(tmp_path / "old.yaml", names)


def test_a_tensor_is_kept_in_one_branch(folder):
    path = folder / "eyeriss_like.yaml"
    path.write_text(ARCH.replace("keep: [Weights]}", "keep: [Weights, Inputs]}"))
    with pytest.raises(
        InputError, match=r"eyeriss_like\.yaml, line \d+: .*Inputs must be kept in one branch of !Parallel, not in 2"
    ):
        own(folder)
    path.write_text(ARCH.replace("dataspace: {keep: [Outputs]}", "dataspace: {bypass: [Inputs]}"))
    with pytest.raises(InputError, match=r"Outputs must be kept in one branch of !Parallel, not in none"):
        own(folder)
    path.write_text(ARCH.replace("name: psum_spad\n", "name: psum_spad\n      spatial: {meshX: 2}\n"))
    with pytest.raises(InputError, match=r"a branch of !Parallel cannot have many instances"):
        own(folder)


def test_files_are_known_by_what_they_hold(folder):
    (folder / "other.yaml").write_text(ARCH)
    with pytest.raises(
        InputError, match=r"eyeriss_like\.yaml, other\.yaml all have the key architecture; call the one"
    ):
        own(folder)
    (folder / "other.yaml").unlink()
    (folder / "timeloop-mapper.ART.yaml").unlink()
    with pytest.raises(InputError, match=r"ART\.yaml"):
        own(folder)


DUMPED = """\
dumped_by_timeloop_front_end: true
architecture:
  version: '0.4'
  subtree:
  - name: system_top_level
    attributes: {technology: 45nm, version: '0.4'}
    local:
    - {name: "DRAM[1..1]", class: DRAM, attributes: {width: 64, datawidth: 16, cluster_size: 1, meshX: 1, meshY: 1}}
    - {name: "glb[1..1]", class: smartbuffer_SRAM, attributes: {depth: 1024, width: 64, datawidth: 16, cluster_size: 1}}
    - {name: "inter_PE_spatial[1..1]", class: dummy_storage, attributes: {width: 1, depth: 1, datawidth: 1, cluster_size: 1}}
    - {name: "spad[1..16]", class: regfile, attributes: {depth: 64, width: 16, datawidth: 16, meshX: 4, meshY: 4}}
    - {name: "mac[1..16]", class: intmac, attributes: {meshX: 4, meshY: 4}}
architecture_constraints:
  targets:
  - {type: spatial, target: inter_PE_spatial, factors: "R=1,S=1", permutation: RSCMNPQ, split: 3}
  - {type: temporal, target: inter_PE_spatial, factors: "C=1,M=1,R=1,S=1,N=1,P=1,Q=1", permutation: CMRSNPQ}
  - {type: bypass, target: inter_PE_spatial, bypass: [Weights, Inputs, Outputs]}
problem: {version: '0.4', instance: {C: 3}}
"""


def test_what_the_front_end_dumps_is_the_same_accelerator(tmp_path):
    dumped, notes = imported_v04(tmp_path, DUMPED)
    (tmp_path / "nodes").mkdir()
    wanted, _ = imported_v04(tmp_path / "nodes", V04)
    assert notes == ["inter_PE_spatial: the ART has no area, so 0 is taken"]
    assert [level for level in dumped.levels if any(level.keep)] == list(wanted.levels)
    layer = Layer(C=8, M=12, R=3, S=3, P=4, Q=4)
    mine, theirs = (best_mappings(arch, layer, BitWidths(8, 4, 8))[0]["energy"] for arch in (dumped, wanted))
    assert (mine.energy_pj, mine.cycles) == (theirs.energy_pj, theirs.cycles)


SPATIAL = "spatial: {factors: [R=1, S=1], permutation: [R, S, C, M, N, P, Q], split: 3}"


@pytest.mark.parametrize(
    ("shorthand", "factors"),
    [
        ("factors_only: [C=4]", "C4 M1 R1 S1 N1 P1 Q1 G1"),
        ("factors: [C=4], factors_only: [C=4, M<=2]", "C4 R1 S1 N1 P1 Q1 G1"),
        ("no_iteration_over_dataspaces: [Weights]", "C1 M1 R1 S1 G1"),
        ("no_iteration_over_dataspaces: [Weights], factors: [N=1, C=1, M<=2]", "C1 M1 R1 S1 N1 G1"),
        ("must_iterate_over_dataspaces: [Outputs]", "C1 R1 S1"),
        ('no_iteration_over_dataspaces: ["*"]', "C1 M1 R1 S1 N1 P1 Q1 G1"),
        ("no_iteration_over_dataspaces: []", ""),
    ],
)
def test_shorthands_for_factors(tmp_path, shorthand, factors):
    arch, notes = imported_v04(tmp_path, V04.replace(SPATIAL, f"temporal: {{}}\n      spatial: {{{shorthand}}}"))
    wanted = {(text[0], int(text[1])) for text in factors.split()}
    assert not notes and {pair for rule in arch.arch_constraints for pair in rule.factors} == wanted


@pytest.mark.parametrize(
    ("shorthand", "keep"),
    [
        ("keep_only: [Weights]", (True, False, False)),
        ("bypass_only: [Weights]", (False, True, True)),
        ('keep: ["*"]', (True, True, True)),
        ('bypass: ["*"]', (False, False, False)),
    ],
)
def test_shorthands_for_tensors(tmp_path, shorthand, keep):
    spad = "{name: spad, class: regfile, attributes: {depth: 64, width: 16}"
    text = V04.replace(spad, f"{spad}, constraints: {{dataspace: {{{shorthand}}}}}")
    assert text != V04
    arch, notes = imported_v04(tmp_path, text)
    assert not notes and arch.levels[0].keep == keep


def test_a_factor_cannot_be_1_and_another(tmp_path):
    text = V04.replace(SPATIAL, "spatial: {factors: [C=4], no_iteration_over_dataspaces: [Weights]}")
    with pytest.raises(InputError, match=r"no_iteration_over_dataspaces: glb: the factor of C must be 1 then"):
        imported_v04(tmp_path, text)


@pytest.mark.parametrize(("split", "on_x"), [(0, 0), (1, 0), (5, 0), (6, 1), (7, 2), (999, 8)])
def test_splits_count_what_the_front_end_puts_first(tmp_path, split, on_x):
    """R, S, P and Q of factor 1, and N, come before C and M, as in the published run of simple_weight_stationary, whose split of 1
    put both on Y."""
    rule = f"spatial: {{factors: [R=1, S=1, P=1, Q=1], permutation: [C, M], split: {split}}}"
    arch, notes = imported_v04(tmp_path, V04.replace(SPATIAL, rule))
    assert arch.arch_constraints[0].split == on_x
    assert len(notes) == (0 < split < 8)
