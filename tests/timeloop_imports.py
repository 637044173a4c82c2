"""Timeloop's files of a small accelerator in both versions, and imported accelerators as tests look at them."""

from __future__ import annotations

from pathlib import Path

import yaml

from mqjax.arch import Arch
from mqjax.hw import load_arch
from mqjax.io.timeloop_arch import import_accelerator

FILES = {
    "arch.yaml": """\
architecture:
  version: 0.3
  subtree:
  - name: system
    local:
    - {name: DRAM, class: DRAM, attributes: {type: LPDDR4, width: 64, block-size: 4, word-bits: 16}}
    subtree:
    - name: chip
      local:
      - {name: glb, class: smartbuffer_SRAM, attributes: {memory_depth: 1024, memory_width: 64, block-size: 4, word-bits: 16}}
      subtree:
      - name: PE[0..15]
        local:
        - {name: spad, class: regfile, attributes: {depth: 64, width: 16, word-bits: 16, meshX: 4}}
        - {name: mac, class: intmac, attributes: {datawidth: 16, meshX: 4}}
""",
    "ERT.yaml": """\
ERT:
  version: 0.3
  tables:
  - {name: system.DRAM, actions: [{name: read, arguments: {}, energy: 512.0}, {name: write, energy: 512.0}]}
  - {name: system.chip.glb, actions: [{name: read, energy: 20.0}, {name: write, energy: 21.0}, {name: write, energy: 19.0}]}
  - {name: "system.chip.PE[0..15].spad", actions: [{name: read, energy: 0.5}, {name: write, energy: 6e-1}]}
  - {name: "system.chip.PE[0..15].mac", actions: [{name: mac_random, arguments: {}, energy: 1.0}]}
""",
    "ART.yaml": """\
ART:
  tables:
  - {name: system.DRAM, area: 0.0}
  - {name: system.chip.glb, area: 1000.0}
  - {name: "system.chip.PE[0..15].spad", area: 10.0}
  - {name: "system.chip.PE[0..15].mac", area: 20.0}
""",
    "arch_constraints.yaml": """\
architecture_constraints:
  targets:
  - {target: glb, type: spatial, factors: R=1 S=1, permutation: RSCMNPQ, split: 3}
""",
    "map_constraints.yaml": "mapspace_constraints:\n  targets: []\n",
}

V04 = """\
architecture:
  version: 0.4
  nodes:
  - !Container {name: system, attributes: {word-bits: 16, technology: 45nm}}
  - !Component {name: DRAM, class: DRAM, attributes: {width: 64, block_size: 4}}
  - !Container {name: chip}
  - !Component {name: glb, class: smartbuffer_SRAM, attributes: {depth: 1024, width: 64, block_size: 4}}
  - !Container
    name: PE
    spatial: {meshX: 4, meshY: 4}
    constraints:
      spatial: {factors: [R=1, S=1], permutation: [R, S, C, M, N, P, Q], split: 3}
  - !Component {name: spad, class: regfile, attributes: {depth: 64, width: 16}}
  - !Component {name: mac, class: intmac}
"""


def reread(folder: Path, name: str) -> Arch:
    """The import of Timeloop's files in a folder, written as a file of ours and read again."""
    result = import_accelerator(name, folder, folder)
    (folder / "mine.yaml").write_text(yaml.safe_dump(result.document, sort_keys=False))
    return load_arch(folder / "mine.yaml")


def said(rules):
    """Constraints, whatever their order."""
    return {(r.level, r.spatial, frozenset(r.factors), r.permutation, r.split) for r in rules}


def imported(folder, **changes):
    """The import of `FILES`, in each of which `changes` replaces texts: {file: {old: new}} with the files' stems."""
    for name, text in FILES.items():
        for old, new in changes.get(name.removesuffix(".yaml"), {}).items():
            assert old in text
            text = text.replace(old, new, 1)
        (folder / name).write_text(text)
    result = import_accelerator("mine", folder, folder)
    (folder / "mine.yaml").write_text(yaml.safe_dump(result.document, sort_keys=False))
    return load_arch(folder / "mine.yaml"), result.without_counterpart


def imported_v04(folder, arch: str = V04, **others):
    """The import of a v0.4 architecture, with the tables of `FILES`; constraint files only if they are given."""
    files = {
        "arch.yaml": arch,
        "ERT.yaml": FILES["ERT.yaml"].replace("[0..15]", "[1..16]"),
        "ART.yaml": FILES["ART.yaml"],
    }
    for name, text in (files | {f"{stem}.yaml": text for stem, text in others.items()}).items():
        (folder / name).write_text(text)
    result = import_accelerator("mine", folder, folder)
    (folder / "mine.yaml").write_text(yaml.safe_dump(result.document, sort_keys=False))
    return load_arch(folder / "mine.yaml"), result.without_counterpart
