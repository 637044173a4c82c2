"""Simba as a user of Timeloop v0.4 would write it is the shipped one; formulas and variables in place of numbers.

Guards: docs/ARCHITECTURE_FORMAT.md, "From Timeloop".
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.formulas import FormulaError, formula_value
from mqjax.io.timeloop_arch import import_accelerator
from timeloop_imports import reread, said

GOLDEN = Path(__file__).parent.parent / "golden" / "timeloop" / "simba"

VARIABLES = """\
variables:
  version: 0.4
  technology: "45nm"
  n_bits: 16
  n_pes: 4 ** 2
  lanes: 4
  words: (1024 * n_bits) // 4
"""

ARCH = """\
architecture:
  version: 0.4
  nodes:
  - !Container
    name: system
    attributes: {technology: technology, word_bits: n_bits, datawidth: n_bits}
  - !Component
    name: DRAM
    class: DRAM
    attributes: {type: "LPDDR4", width: 4 * n_bits, block_size: 4, word_bits: n_bits}
  - !Container
    name: chip
    attributes: {word_bits: n_bits, block_size: 4}
    nodes:
    - !Component
      name: GlobalBuffer
      class: smartbuffer_SRAM
      attributes: {depth: 64 * 32, block_size: 16, width: block_size * word_bits, n_banks: 4}
      constraints:
        dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}
    - !Container
      name: PE
      spatial: {meshX: n_pes}
      constraints:
        spatial: {factors: [R=1, S=1, P=1, Q=1, N=1], permutation: [M, C, R, S, P, Q, N]}
    - !Component
      name: PEInputBuffer
      class: smartbuffer_RF
      attributes: {depth: words * 2, width: block_size * word_bits}
      constraints:
        dataspace: {keep: [Inputs], bypass: [Weights, Outputs]}
    - !Container
      name: distributed_buffers
      spatial: {meshY: lanes}
      constraints:
        spatial: {factors: [P=1, Q=1, R=1, S=1, C=1, N=1], permutation: [M, C, Q, R, S, P, N]}
    - !Component
      name: PEWeightBuffer
      class: smartbuffer_RF
      attributes: {depth: words, n_banks: 8}
      constraints:
        dataspace: {keep: [Weights], bypass: [Inputs, Outputs]}
    - !Component
      name: PEAccuBuffer
      class: smartbuffer_RF
      attributes: {depth: 2 ** 7, block_size: 1}
      constraints:
        dataspace: {keep: [Outputs], bypass: [Weights, Inputs]}
    - !Container
      name: reg_mac
      spatial: {meshY: lanes / 1}
      constraints:
        spatial: {factors: [P=1, Q=1, R=1, S=1, M=1, N=1], permutation: [C, M, Q, R, S, P, N]}
    - !Component
      name: PEWeightRegs
      class: reg_storage
      attributes: {depth: 1, block_size: 1, cluster_size: n_pes * lanes}
      constraints:
        dataspace: {keep: [Weights], bypass: [Inputs, Outputs]}
    - !Component {name: LMAC, class: intmac, attributes: {datawidth: n_bits}}
"""


def imported(folder: Path, arch: str, variables: str | None = VARIABLES):
    """The import of an architecture with the tables and heuristics of the paper's Simba."""
    for name in ("ERT.yaml", "ART.yaml"):
        (folder / name).write_text((GOLDEN / "16bit_int" / name).read_text())
    # v0.4 constrains spatial loops where the instances are.
    rules = yaml.safe_load((GOLDEN / "map_constraints.yaml").read_text())
    for rule in rules["mapspace_constraints"]["targets"]:
        if rule["type"] == "spatial":
            rule["target"] = {"PEAccuBuffer": "reg_mac", "PEInputBuffer": "distributed_buffers"}[rule["target"]]
    (folder / "map_constraints.yaml").write_text(yaml.safe_dump(rules))
    (folder / "arch.yaml").write_text(arch)
    if variables is not None:
        (folder / "variables.yaml").write_text(variables)
    return reread(folder, "simba")


@pytest.mark.parametrize("beside", [True, False], ids=["variables beside", "variables in the file"])
def test_simba_in_v04_is_the_shipped_one(tmp_path, beside):
    found = imported(tmp_path, ARCH) if beside else imported(tmp_path, VARIABLES + ARCH, None)
    wanted = load_arch("simba")
    assert found.levels == wanted.levels and found.mac == wanted.mac and found.fanout == wanted.fanout
    assert said(found.arch_constraints) == said(wanted.arch_constraints)
    assert said(found.paper_constraints) == said(wanted.paper_constraints)


@pytest.mark.parametrize(
    ("text", "value"),
    [("64 * 16", 1024), ("a+b*2", 13), ("(a + b) * 2", 16), ("-a + 4", 1), ("2**10", 1024), ("7 // 2", 3), ("8 / 2", 4),
     ("1 / 4", 0.25), ("c", 15), (" 3.5e1 ", 35.0), ("0x10", 16), ("(" * 90 + "1" + ")" * 90, 1)],
)  # fmt: skip
def test_formulas(text, value):
    found = formula_value(text, {"a": 3, "b": 5, "c": "a * b"})
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a + nothing", "'nothing' is neither a variable"), ("x", "depends on itself"), ("name * 2", "is neither a number nor a formula: 'n m'"),
     ("flag", "'flag' is no number"), ("1 / 0", "divides by zero"), ("1 // (a - 3)", "divides by zero"),
     ("9 ** 99", "too large"), ("2 ** 64 ** 2", "too large"), ("10 ** 18 * 10 ** 18", "too large"), ("2 ** -1", "too large"),
     ("(0 - 2) ** 0.5", "no number"), ("1e999", "too large or no number"), ("__import__('os').system('x')", "alone"),
     ("a.b", "alone"), ("a[0]", "alone"), ("[1][0]", "alone"), ("a if a else b", "alone"), ("(a := 2)", "alone"),
     ("lambda: 1", "alone"), ("max(a, b)", "alone"), ("a and b", "alone"), ("True", "alone"), ("'3'", "alone"), ("1j", "alone"),
     ("", "neither a number"), ("1 +", "neither a number"), ("45nm", "neither a number"), ("a\0b", "neither a number"),
     ("(" * 150 + "1" + ")" * 150, "300|301 characters"), ("1+" * 150, "300 characters"),
     ("1 % 2", "alone"), ("~1", "alone"), ("1 << 40", "alone")],
)  # fmt: skip
def test_what_is_no_formula_is_said(text, problem):
    names = {"a": 3, "b": 5, "x": "y + 1", "y": "x - 1", "name": "n m", "flag": True}
    with pytest.raises(FormulaError, match=problem) as caught:
        formula_value(text, names)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [("depth: 64 * 32", "depth: 64 * rows", r"arch\.yaml, line 18: .*attributes\.depth: is '64 \* rows', but 'rows' is neither"),
     ("depth: 64 * 32", "depth: 63 / 2", "depth: must be a positive whole number, not 31.5"),
     ("depth: 64 * 32", "depth: 64 - 64", "depth: must be a positive whole number, not 0"),
     ("depth: 64 * 32", "depth: depth + 1", "depth: depends on itself, by way of depth"),
     ("meshX: n_pes", "meshX: n_pes * n_none", r"spatial\.meshX: is 'n_pes \* n_none', but 'n_none'"),
     ("n_banks: 4", "read_bandwidth: 16 / 0", "read_bandwidth: .* divides by zero"),
     ("n_banks: 4", "multiple_buffering: one", "multiple_buffering: is 'one', but 'one'")],
)  # fmt: skip
def test_bad_formulas_of_files_are_named(tmp_path, old, new, problem):
    assert old in ARCH
    with pytest.raises(InputError, match=problem) as caught:
        imported(tmp_path, ARCH.replace(old, new, 1))
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["variables: [1]\n", "variables: 3\n", "nothing: {}\n"])
def test_bad_variables_are_named(tmp_path, text):
    with pytest.raises(InputError, match=r"variables\.yaml.*variables"):
        imported(tmp_path, ARCH, text)


def test_constraints_on_loops_that_are_not_there_are_said(tmp_path):
    """As those of v0.3 files, whose targets are the levels outside."""
    imported(tmp_path, ARCH)
    (tmp_path / "map_constraints.yaml").write_text((GOLDEN / "map_constraints.yaml").read_text())
    notes = import_accelerator("simba", tmp_path, tmp_path).without_counterpart
    left_out = [note for note in notes if "of which it has none" in note]
    assert [note.split(":")[0] for note in left_out] == ["PEAccuBuffer", "PEInputBuffer"]
