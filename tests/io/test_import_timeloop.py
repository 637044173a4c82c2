"""Timeloop accelerators: those of the paper come out as ours, each spelling gives what Timeloop makes of it, and what cannot
be read is named.

Guards: docs/ARCHITECTURE_FORMAT.md, "From Timeloop".
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.timeloop_arch import import_accelerator
from timeloop_imports import FILES, imported

GOLDEN = Path(__file__).parent.parent / "golden" / "timeloop"
SHIPPED = {
    f"{name}{suffix}": (name, folder)
    for name in ("eyeriss", "simba")
    for suffix, folder in {"": "16bit_int", "_8bit_same": "8bit_int_same", "_8bit_changed": "8bit_int_changed"}.items()
}


@pytest.mark.parametrize("shipped", SHIPPED)
def test_the_papers_accelerators_are_the_shipped_ones(shipped, tmp_path):
    """The authors' own files, as Timeloop reads them."""
    name, variant = SHIPPED[shipped]
    out = tmp_path / "mine.yaml"
    folders = [str(GOLDEN / name / variant), "--constraints-dir", str(GOLDEN / name)]
    assert main(["arch", "import", *folders, "--name", shipped, "--out", str(out)]) == 0
    assert load_arch(out) == load_arch(shipped)


def test_a_plain_accelerator(tmp_path):
    arch, notes = imported(tmp_path)
    assert not notes and arch.level_names == ("spad", "glb", "DRAM")
    assert (arch.mac.name, arch.mac.mesh, arch.mac.energy_pj, arch.mac.area_um2) == ("mac", (4, 4), 1.0, 20.0)
    spad, glb, dram = arch.levels
    assert (spad.mesh, spad.capacity_words, spad.word_bits, spad.block_words, spad.cluster) == ((4, 4), 64, 16, 1, 1)
    assert (spad.read_pj, spad.fill_pj, spad.update_pj, spad.area_um2) == (0.5, 0.6, 0.6, 10.0)
    assert (glb.mesh, glb.capacity_words, glb.block_words, glb.fill_pj) == ((1, 1), 4096, 4, 21.0)
    assert dram.capacity_words is None and all(level.keep == (True, True, True) for level in arch.levels)
    rule = arch.arch_constraints[0]
    assert (rule.level, rule.spatial, dict(rule.factors)) == ("glb", True, {"R": 1, "S": 1})
    assert (rule.permutation, rule.split, arch.paper_constraints) == ("RSCMNPQ", 3, ())


@pytest.mark.parametrize(
    ("text", "keep"),
    [("bypass: [Inputs, Outputs]", (True, False, False)), ("keep: [Inputs]", (False, True, False)), ("keep: []", (False,) * 3),
     ("keep: [Weights], bypass: [Inputs]", (True, False, False)), ("bypass: []", (True,) * 3)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["bypass", "datatype", "dataspace", "bypassing"])
@pytest.mark.parametrize("file", ["arch_constraints", "map_constraints"])
def test_keep_and_bypass(tmp_path, text, keep, kind, file):
    # A list of what passes by leaves the rest; a list of what is kept has the last word.
    rule = f"{{target: spad, type: {kind}, {text}}}"
    change = {"[]": f"[{rule}]"} if file == "map_constraints" else {"targets:": f"targets:\n  - {rule}"}
    arch, _ = imported(tmp_path, **{file: change})
    assert arch.levels[0].keep == keep and arch.levels[1].keep == (True, True, True)


@pytest.mark.parametrize(
    "text",
    ["R=1 S=0 C=16", "R1 S0 C16", "R1,S0,C16", "'R = 1, S=0 C 16'", "R==1 S=0 C=16", "[R=1, S=0, C=16]", "[R1, 'S0 C16']",
     "{R: 1, S: 0, C: 16}", "'R1S0C16'"],
)  # fmt: skip
def test_factors_in_all_spellings(tmp_path, text):
    arch, _ = imported(tmp_path, arch_constraints={"R=1 S=1": text if text[0] in "'[{" else f"'{text}'"})
    assert dict(arch.arch_constraints[0].factors) == {"R": 1, "S": 0, "C": 16}


def test_upper_bounds(tmp_path):
    # 16 children: no factor can exceed 16; a factor of at most 1 is 1.
    arch, _ = imported(tmp_path, arch_constraints={"R=1 S=1": "R<=16 S <= 1 C=4 M<=3"})
    assert dict(arch.arch_constraints[0].factors) == {"S": 1, "C": 4}
    assert arch.arch_constraints[0].max_factors == (("M", 3),)


@pytest.mark.parametrize("text", ["RSC MNPQ", "'R,S,C,M,N,P,Q'", "[R, S, C, M, N, P, Q]"])
def test_permutations_in_all_spellings(tmp_path, text):
    arch, _ = imported(tmp_path, arch_constraints={"RSCMNPQ": text})
    assert arch.arch_constraints[0].permutation == "RSCMNPQ"


GLB = "memory_depth: 1024, memory_width: 64, block-size: 4, word-bits: 16"
SPAD = "depth: 64, width: 16, word-bits: 16, meshX: 4"


@pytest.mark.parametrize(
    ("text", "capacity", "word", "block", "cluster"),
    [("memory_depth: 1024, memory_width: 64, block_size: 4, word_bits: 16", 4096, 16, 4, 1),
     ("memory-depth: 1024, width: 64, n_words: 4, datawidth: 16", 4096, 16, 4, 1),
     ("entries: 4096, n_words: 4", 4096, 16, 4, 1),
     ("sizeKB: 8, block-size: 4, word_width: 16", 4096, 16, 4, 1),
     ("depth: 8, word-bits: 8, cluster-size: 1", 8, 8, 1, 1),
     ("depth: 9, word-bits: 8, multiple-buffering: 2.0", 4, 8, 1, 1)],
)  # fmt: skip
def test_attributes_in_all_spellings(tmp_path, text, capacity, word, block, cluster):
    level = imported(tmp_path, arch={GLB: text})[0].levels[1]
    assert (level.capacity_words, level.word_bits, level.block_words, level.cluster) == (capacity, word, block, cluster)


@pytest.mark.parametrize(
    ("text", "block", "cluster"),
    [
        ("width: 64, ", 1, 4),
        ("cluster-size: 4, ", 1, 4),
        ("cluster_size: 4, width: 16, ", 1, 4),
        ("cluster_size: 4, width: 64, ", 1, 4),
        ("cluster_size: 2, width: 64, ", 2, 2),
        ("cluster_size: 1, width: 64, ", 4, 1),
        ("cluster_size: 2, block_size: 2, width: 64, ", 2, 2),
        ("cluster_size: 2, block_size: 4, width: 64, ", 4, 2),
        ("block_size: 2, width: 64, ", 2, 2),
    ],
)
def test_blocks_and_clusters(tmp_path, text, block, cluster):
    level = imported(tmp_path, arch={"width: 16, ": text})[0].levels[0]
    assert (level.block_words, level.cluster, level.capacity_words) == (block, cluster, 64 * block)


def test_macs_are_innermost_wherever_they_are_listed(tmp_path):
    lines = FILES["arch.yaml"].splitlines(keepends=True)
    as_it_is = imported(tmp_path)
    assert imported(tmp_path, arch={"".join(lines[-2:]): lines[-1] + lines[-2]}) == as_it_is


@pytest.mark.parametrize(
    ("text", "mesh"),
    [
        ("meshX: 2", (2, 8)),
        ("mesh-x: 2", (2, 8)),
        ("meshY: 2", (8, 2)),
        ("meshX: 2, meshY: 8", (2, 8)),
        ("n: 1", (16, 1)),
    ],
)
def test_meshes(tmp_path, text, mesh):
    changes = {SPAD: f"depth: 64, word-bits: 16, {text}", "datawidth: 16, meshX: 4": f"datawidth: 16, {text}"}
    arch, _ = imported(tmp_path, arch=changes)
    assert arch.levels[0].mesh == mesh == arch.mac.mesh


def test_nested_index_ranges_multiply(tmp_path):
    arch, _ = imported(tmp_path, arch={"name: mac,": "name: 'mac[0..2]',"})
    assert arch.mac.mesh == (4, 12) and arch.levels[0].mesh == (4, 4)


def test_bandwidths(tmp_path):
    changes = {SPAD: f"{SPAD}, read_bandwidth: 2", GLB: f"{GLB}, bandwidth: 3"}
    arch, _ = imported(tmp_path, arch=changes)
    assert [(level.read_bandwidth, level.write_bandwidth) for level in arch.levels] == [
        (2, None),
        (1.5, 1.5),
        (None, None),
    ]


def test_what_has_no_counterpart_is_said(tmp_path):
    changes = {
        "arch": {SPAD: f"{SPAD}, min-utilization: 0.5", "        - {name: mac": "        - {name: add, class: adder}\n        - {name: mac"},
        "map_constraints": {"[]": "[{target: glb, type: no_multicast, datatypes: [Weights]}]"},
        "ERT": {"[{name: read, energy: 0.5}, {name: write, energy: 6e-1}]": "[{name: access, energy: 0.5}]"},
        "ART": {'  - {name: "system.chip.PE[0..15].spad", area: 10.0}\n': ""},
    }  # fmt: skip
    arch, notes = imported(tmp_path, **changes)
    assert {note.split(":")[0] for note in notes} == {"spad", "add", "glb"} and len(notes) == 7
    # A register file of 64 words of 16 bits: ((5 / 99.5) * (16 * 64 / 8192 - 0.5) + 1) * 16 / 16.
    assert arch.levels[0].read_pj == pytest.approx(1 - 0.375 * 5 / 99.5) and arch.levels[0].area_um2 == 0


def test_an_old_form_of_constraint_files(tmp_path):
    as_it_is = imported(tmp_path)
    old = {"architecture_constraints:": "mapspace:", "targets:": "constraints:"}
    assert imported(tmp_path, arch_constraints=old) == as_it_is


BAD = {
    "upper bound of nothing": ({"arch_constraints": {"S=1": "S<=0"}}, r"line 3: .*factors: glb: the upper bound of S must be"),
    "bounded twice": ({"arch_constraints": {"S=1": "R<=3"}}, r"line 3: .*the factor of R is given twice"),
    "no factor": ({"arch_constraints": {"S=1": "S=x"}}, r"line 3: .*factors: glb: 'S=x' must be factors"),
    "broken factor": ({"arch_constraints": {"S=1": "S=1.5"}}, r"line 3: .*factors: glb: 'S=1.5' must be factors"),
    "unknown dimension": ({"arch_constraints": {"S=1": "K=1"}}, r"line 3: .*factors: glb: unknown dimension 'K'"),
    "factor twice": ({"arch_constraints": {"S=1": "R=1"}}, r"line 3: .*the factor of R is given twice"),
    "factor in both files": (
        {"map_constraints": {"[]": "[{target: glb, type: spatial, factors: R=1}]"}},
        r"map_constraints\.yaml, line 2: .*R of factors is given twice for the spatial loops of glb",
    ),
    "permutation in both files": (
        {"map_constraints": {"[]": "[{target: glb, type: spatial, permutation: RSCMNPQ}]"}},
        r"map_constraints\.yaml, line 2: .*permutation is given twice for the spatial loops of glb",
    ),
    "permutation": ({"arch_constraints": {"RSCMNPQ": "RSCK"}}, r"line 3: .*permutation: must list dimensions"),
    "split": ({"arch_constraints": {"split: 3": "split: -1"}}, r"line 3: .*split: must be a whole number"),
    "target": ({"arch_constraints": {"glb": "L9"}}, r"line 3: .*target: unknown level 'L9'; levels are DRAM, glb, spad"),
    "tensor": (
        {"map_constraints": {"[]": "[{target: glb, type: bypass, bypass: [Psums]}]"}},
        r"map_constraints\.yaml, line 2: .*bypass: must be a list out of",
    ),
    "no constraints": ({"map_constraints": {"mapspace_constraints": "other"}}, r"map_constraints\.yaml, line 1: .*keys"),
    "version 0.4 without nodes": ({"arch": {"version: 0.3\n  subtree": "version: 0.4\n  tree"}}, r"arch\.yaml, line 1: architecture\.nodes: this key"),
    "depth of text": ({"arch": {"depth: 64": "depth: many"}}, r"arch\.yaml, line \d+: .*depth: is 'many', but 'many'"),
    "no depth twice": ({"arch": {"depth: 64": "depth: 64, sizeKB: 1"}}, r"line \d+: .*sizeKB: spad has its size twice"),
    "word of nothing": ({"arch": {"word-bits: 16, meshX": "word-bits: 0, meshX"}}, r"word-bits: must be a positive whole"),
    "two spellings": ({"arch": {"depth: 64": "depth: 64, word_bits: 8"}}, r"given twice, in two spellings"),
    "width": ({"arch": {"width: 16": "width: 20"}}, r"width: the width 20 must be a multiple"),
    "mesh": ({"arch": {"meshX: 4}}\n        - {name: mac": "meshX: 3}}\n        - {name: mac"}}, r"meshX: spad has 16 inst"),
    "range": ({"arch": {"PE[0..15]": "PE[15..0]"}}, r"name: must be a name, with an index range"),
    "no class": ({"arch": {"class: regfile, ": ""}}, r"class: this key is missing"),
    "two macs": ({"arch": {"class: regfile": "class: intmac"}}, r"must hold one compute component"),
    "no tree": ({"arch": {"subtree": "tree"}}, r"architecture\.subtree: this key is missing"),
    "list": ({"arch": {"architecture:": "- architecture:"}}, r"arch\.yaml, line 1: "),
    "no action of the MAC": ({"ERT": {"mac_random": "idle"}}, r"arch\.yaml, line 15: .*the ERT has none of the actions mac_ra"),
    "no action of DRAM": ({"ERT": {"system.DRAM": "system.other"}}, r"arch\.yaml, line 6: .*none of the actions random_read"),
    "energy": ({"ERT": {"energy: 20.0": "energy: cheap"}}, r"ERT\.yaml, line 5: .*energy: must be a number"),
    "no tables": ({"ERT": {"tables": "rows"}}, r"ERT\.yaml, line 1: ERT\.tables: this key is missing"),
    "one name twice": ({"ERT": {"system.DRAM": "system.other.glb"}}, r"same last name 'glb'"),
    "area": ({"ART": {"1000.0": "-1"}}, r"ART\.yaml, line 4: .*area: must be a number of at least 0"),
    "no YAML": ({"ART": {"ART:": "ART: ["}}, r"ART\.yaml, line \d+: not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(tmp_path, case):
    changes, problem = BAD[case]
    with pytest.raises(InputError, match=problem) as caught:
        imported(tmp_path, **changes)
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).isprintable()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*arch\.yaml"):
        import_accelerator("mine", tmp_path, tmp_path)
