"""Timeloop's version 0.4: the same accelerators as in 0.3, the paper's Eyeriss, and what cannot be read is named.

Guards: docs/ARCHITECTURE_FORMAT.md, "From Timeloop".
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.timeloop_arch import import_accelerator
from mqjax.mapper.best import best_mappings
from mqjax.types import BitWidths, Layer
from timeloop_imports import FILES, V04, imported, imported_v04, reread, said

GOLDEN = Path(__file__).parent.parent / "golden" / "timeloop"


def test_the_same_in_v04(tmp_path):
    (tmp_path / "old").mkdir()
    assert imported_v04(tmp_path) == imported(tmp_path / "old")


def test_the_same_in_v04_with_constraints_in_files(tmp_path):
    rules = """
      constraints:
        version: 0.4
        targets:
        - target: PE
          spatial: {factors: R=1 S<=3, permutation: RSCMNPQ, split: 3}
        - {target: spad, dataspace: {keep: [Weights], bypass: [Inputs, Outputs]}, temporal: {factors: [C=2]}}
    """
    inside = V04[V04.index("    constraints:") : V04.index("  - !Component {name: spad")]
    arch, notes = imported_v04(
        tmp_path, V04.replace(inside, ""), arch_constraints=rules, map_constraints="constraints: []"
    )
    assert not notes and arch.levels[0].keep == (True, False, False)
    assert arch.arch_constraints[0].max_factors == (("S", 3),) and arch.arch_constraints[1].factors == (("C", 2),)


EYERISS_V04 = """\
architecture:
  version: 0.4
  nodes:
  - !Container
    name: system
    attributes: &word {word_bits: 16, technology: 45nm}
  - !Component
    name: DRAM
    class: DRAM
    attributes: {<<: *word, type: LPDDR4, width: 64, block_size: 4}
  - !Container {name: eyeriss}
  - !Component
    name: shared_glb
    class: smartbuffer_SRAM
    attributes: {depth: 12800, width: 64, n_banks: 25, block-size: 4, read_bandwidth: 16, write_bandwidth: 16}
    constraints:
      dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}
  - !Container
    name: column
    spatial: {meshX: 14}
    constraints:
      spatial: {factors: [N=1, C1, P1, R1, S=1], permutation: [N, C, P, R, S, Q, M], split: 7}
  - !Component
    name: DummyBuffer
    class: regfile
    attributes: {depth: 16, width: 16}
    constraints:
      dataspace: {bypass: [Inputs, Outputs, Weights]}
      temporal: {factors: "N=1 M=1 C=1 P=1 Q=1 R=1 S=1"}
  - !Container
    name: PE
    spatial: {meshY: 12}
    constraints:
      spatial: {factors: [N=1, P=1, Q=1, R=1, S=0], permutation: [N, P, Q, R, S, C, M], split: 4}
  - !Component
    name: ifmap_spad
    class: smartbuffer_RF
    attributes: {depth: 12, width: 16, read_bandwidth: 2, write_bandwidth: 2}
    constraints:
      dataspace: {keep: [Inputs], bypass: [Weights, Outputs]}
      temporal: {factors: [N=1, M=1, C=1, P=1, Q=1, R=1, S=1], permutation: [N, M, C, P, Q, R, S]}
  - !Component
    name: weights_spad
    class: smartbuffer_SRAM
    attributes: {depth: 224, width: 16, read_bandwidth: 2, write_bandwidth: 2}
    constraints:
      dataspace: {keep: [Weights], bypass: [Inputs, Outputs]}
      temporal: {factors: [N=1, M=1, P=1, Q=1, S=1, R=0], permutation: [N, M, P, Q, S, C, R]}
  - !Component
    name: psum_spad
    class: smartbuffer_RF
    attributes: {depth: 24, width: 16, update_fifo_depth: 2, read_bandwidth: 2, write_bandwidth: 2}
    constraints:
      dataspace: {keep: [Outputs], bypass: [Inputs, Weights]}
      temporal: {factors: [N=1, C=1, R=1, S=1, P=1, Q=1], permutation: [N, C, P, Q, R, S, M]}
  - !Component {name: mac, class: intmac}
"""


def of_paper(folder, text: str):
    """A v0.4 architecture with the tables and the heuristics of the paper's Eyeriss."""
    for name in ("ERT.yaml", "ART.yaml"):
        (folder / name).write_text((GOLDEN / "eyeriss" / "16bit_int" / name).read_text())
    (folder / "map_constraints.yaml").write_text((GOLDEN / "eyeriss" / "map_constraints.yaml").read_text())
    (folder / "arch.yaml").write_text(text)
    return reread(folder, "eyeriss")


def test_the_papers_eyeriss_in_v04(tmp_path):
    found, wanted = of_paper(tmp_path, EYERISS_V04), load_arch("eyeriss")
    assert found.levels == wanted.levels and found.mac == wanted.mac
    assert said(found.arch_constraints) == said(wanted.arch_constraints)
    assert found.paper_constraints == wanted.paper_constraints


def test_containers_within_containers_need_no_buffer_between(tmp_path):
    """The columns of Eyeriss without the buffer that holds nothing: a level that relays takes its place."""
    between = EYERISS_V04[
        EYERISS_V04.index("  - !Component\n    name: DummyBuffer") : EYERISS_V04.index("  - !Container\n    name: PE")
    ]
    found, wanted = (
        of_paper(tmp_path, EYERISS_V04.replace(between, "").replace("name: column", "name: DummyBuffer")),
        load_arch("eyeriss"),
    )
    relay = found.levels[3]
    assert (relay.name, relay.mesh, relay.keep) == ("DummyBuffer", (14, 1), (False,) * 3)
    assert found.fanout == wanted.fanout and found.levels[4:] == wanted.levels[4:]
    assert said(found.arch_constraints) == {
        (name, spatial, factors if (name, spatial) != ("DummyBuffer", False) else factors | {("G", 1)}, order, split)
        for name, spatial, factors, order, split in said(wanted.arch_constraints)
    }
    layer = Layer(C=4, M=6, R=3, S=3, P=4, Q=4)
    mine, theirs = (best_mappings(arch, layer, BitWidths(8, 4, 8))[0]["energy"] for arch in (found, wanted))
    assert (mine.energy_pj, mine.cycles) == (theirs.energy_pj, theirs.cycles)


def test_what_has_no_counterpart_in_v04_is_said(tmp_path):
    text = V04.replace("{depth: 64, width: 16}}", "{depth: 64, width: 16}, sparse_optimizations: {action_gating: []}}")
    text = text.replace("split: 3}", "split: 3, no_reuse: [Weights]}")
    _, notes = imported_v04(
        tmp_path, text,
        map_constraints="mapspace: {targets: [{target: spad, temporal: {factors: [C=2], maximize_dims: [M]}, sparse: {a: 1}}]}",
    )  # fmt: skip
    assert sorted(note.split(" has no")[0].split(" of the")[0] for note in notes) == [
        "PE: no_reuse of spatial constraints", "spad: a constraint", "spad: maximize_dims of temporal constraints",
        "spad: sparse_optimizations",
    ]  # fmt: skip
    ert = FILES["ERT.yaml"].replace(
        "{name: read, energy: 0.5}", "{name: read, energy: 0.5}, {name: leak, energy: 0.01}"
    )
    (tmp_path / "ERT.yaml").write_text(ert)
    assert any(
        "leakage of 0.01 pJ" in note for note in import_accelerator("mine", tmp_path, tmp_path).without_counterpart
    )


BAD_V04 = {
    "pipelined": (("!Container {name: chip}", "!Pipelined {nodes: []}"), r"line 6: architecture\.nodes\[2\]: a node of the kind !Pipelined"),
    "parallel without tensors": (("!Container {name: chip}", "!Parallel {nodes: []}"), r"line 6: .*Weights must be kept in one branch of !Parallel, not in none"),
    "tag of a text": (("class: DRAM,", "class: !!python/name:os.system DRAM,"), r"line 5: not valid YAML"),
    "unknown tag": (("!Container {name: chip}", "!!python/object/apply:os.system {name: chip}"), r"line 6: not valid YAML"),
    "tag of a list": (("!Container {name: chip}", "!Container [chip]"), r"line 6: .*!Container stands before what is no mapping"),
    "mesh": (("meshX: 4,", "meshX: four,"), r"line 10: architecture\.nodes\[4\]\.spatial\.meshX: is 'four', but 'four' is neither"),
    "range and mesh": (("name: PE", "name: PE[0..7]"), r"line 9: .*name: 8 instances are not 4 times 4"),
    "no class": (("class: regfile, ", ""), r"class: this key is missing"),
    "nothing inside the MACs": (("  - !Component {name: mac, class: intmac}\n", ""), r"must hold one compute component"),
    "order": (("class: intmac}", "class: intmac}\n  - !Component {name: late, class: regfile}"), r"nodes\[6\]\.name: the compute component must be the innermost"),
    "twice": (("name: chip", "name: glb"), r"line 7: .*the name 'glb' is used twice"),
    "expression": (("depth: 1024", "depth: 64 * rows"), r"depth: is '64 \* rows', but 'rows' is neither a variable"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_V04)
def test_bad_files_of_v04_are_named(tmp_path, case):
    (old, new), problem = BAD_V04[case]
    assert old in V04
    with pytest.raises(InputError, match=problem) as caught:
        imported_v04(tmp_path, V04.replace(old, new, 1))
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).isprintable()
