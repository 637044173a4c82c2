"""Accelerator files: the shipped ones equal the reference's facts, bad ones are named by file, line and key.

Guards: docs/ARCHITECTURE_FORMAT.md, "Accelerator files"; docs/MODEL.md, "2. Architectures".
"""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mqjax.arch import Constraint
from mqjax.cli import main
from mqjax.cost.packing import operands_per_word
from mqjax.errors import InputError
from mqjax.hw import FOLDER, load_arch, shipped
from mqjax.io.accelerator import findings, read_accelerator
from mqjax.types import BitWidths, Layer


def test_accelerators_ship():
    assert shipped() == [
        "eyeriss", "eyeriss_8bit_changed", "eyeriss_8bit_same", "eyeriss_bit_serial", "eyeriss_subword", "nvdla_large",
        "nvdla_small", "shidiannao", "simba", "simba_8bit_changed", "simba_8bit_same", "tpu",
    ]  # fmt: skip
    for name in shipped():
        assert load_arch(name).name == name


def test_facts_of_the_paper_architectures():
    eyeriss, simba = load_arch("eyeriss"), load_arch("simba")
    assert [level.instances for level in eyeriss.levels] == [168, 168, 168, 14, 1, 1]
    assert [level.capacity_words for level in eyeriss.levels] == [24, 224, 12, 16, 51200, None]
    assert eyeriss.fanout == ((1, 1), (1, 1), (1, 1), (1, 12), (14, 1), (1, 1))
    assert [level.capacity_words for level in simba.levels] == [1, 128, 16384, 32768, 32768, None]
    assert simba.fanout == ((1, 1), (1, 4), (1, 1), (1, 4), (16, 1), (1, 1))
    assert simba.levels[0].cluster == 64 and simba.mac.instances == 256


@pytest.mark.parametrize(
    ("width", "word", "operands"), [(8, 16, 2), (7, 16, 2), (6, 16, 2), (5, 16, 3), (4, 16, 4), (3, 16, 5), (2, 16, 8),
                                    (16, 16, 1), (8, 24, 3), (8, 8, 1), (3, 8, 2), (None, 16, 1)]
)  # fmt: skip
def test_operands_per_word(width, word, operands):
    assert operands_per_word(word, width) == operands


def test_equal_files_make_equal_accelerators():
    assert load_arch("eyeriss") == load_arch(FOLDER / "eyeriss.yaml") and hash(load_arch("simba"))
    assert load_arch("eyeriss") != load_arch("eyeriss", dialect="2023")


def bad(change):
    document = yaml.safe_load((FOLDER / "eyeriss.yaml").read_text())
    change(document)
    return yaml.safe_dump(document, sort_keys=False)


BAD = {
    "missing key": (lambda d: d["levels"][0].pop("word_bits"), "levels[0].word_bits"),
    "no levels": (lambda d: d.pop("levels"), "levels"),
    "unknown key": (lambda d: d["levels"][1].update(colour="red"), "levels[1].colour"),
    "wrong type": (lambda d: d["levels"][0].update(capacity_words="many"), "levels[0].capacity_words"),
    "fraction": (lambda d: d["levels"][0].update(capacity_words=1.5), "levels[0].capacity_words"),
    "negative capacity": (lambda d: d["levels"][2].update(capacity_words=-12), "levels[2].capacity_words"),
    "zero capacity": (lambda d: d["levels"][2].update(capacity_words=0), "levels[2].capacity_words"),
    "zero word": (lambda d: d["levels"][3].update(word_bits=0), "levels[3].word_bits"),
    "negative word": (lambda d: d["levels"][3].update(word_bits=-16), "levels[3].word_bits"),
    "zero mesh": (lambda d: d["levels"][0].update(mesh=[0, 12]), "levels[0].mesh"),
    "negative mesh": (lambda d: d["mac"].update(mesh=[14, -12]), "mac.mesh"),
    "mesh that does not divide": (lambda d: d["levels"][3].update(mesh=[5, 1]), "levels[3].mesh"),
    "infinite fill": (lambda d: d["levels"][4]["energy_pj"].update(fill=float("nan")), "levels[4].energy_pj.fill"),
    "negative energy": (lambda d: d["mac"].update(energy_pj=-2.2), "mac.energy_pj"),
    "energy text": (lambda d: d["mac"].update(energy_pj="cheap"), "mac.energy_pj"),
    "infinite energy": (lambda d: d["mac"].update(energy_pj=float("inf")), "mac.energy_pj"),
    "zero bandwidth": (lambda d: d["levels"][0]["bandwidth"].update(read=0), "levels[0].bandwidth.read"),
    "negative bandwidth": (lambda d: d["levels"][0]["bandwidth"].update(write=-1), "levels[0].bandwidth.write"),
    "mesh as a number": (lambda d: d["mac"].update(mesh=4), "mac.mesh"),
    "mesh of one": (lambda d: d["mac"].update(mesh=[4]), "mac.mesh"),
    "huge capacity": (lambda d: d["levels"][0].update(capacity_words=10**30), "levels[0].capacity_words"),
    "huge mesh": (lambda d: d["mac"].update(mesh=[10**12, 1]), "mac.mesh"),
    "huge energy": (lambda d: d["mac"].update(energy_pj=1e300), "mac.energy_pj"),
    "true for a count": (lambda d: d["levels"][0].update(word_bits=True), "levels[0].word_bits"),
    "level as a list": (lambda d: d["levels"].insert(0, []), "levels[0]"),
    "levels as a mapping": (lambda d: d.update(levels={"a": 1}), "levels"),
    "empty name": (lambda d: d["levels"][0].update(name=""), "levels[0].name"),
    "name of two lines": (lambda d: d["levels"][0].update(name="a\nb"), "levels[0].name"),
    "name that is a number": (lambda d: d["levels"][0].update(name=1000.0), "levels[0].name"),
    "number as a key": (lambda d: d["levels"][0].update({7: 1}), "levels[0].7"),
    "tensor twice": (lambda d: d["levels"][0].update(keep=["Weights", "Weights"]), "levels[0].keep"),
    "unknown tensor": (lambda d: d["levels"][0].update(keep=["Psums"]), "levels[0].keep"),
    "outermost level keeps little": (lambda d: d["levels"][5].update(keep=["Inputs"]), "levels[5].keep"),
    "two of one name": (lambda d: d["levels"][1].update(name="psum_spad"), "levels[1].name"),
    "cluster": (lambda d: d["levels"][0].update(cluster=5), "levels[0].cluster"),
    "constrained level": (lambda d: d["constraints"]["arch"][0].update(level="L9"), "constraints.arch[0].level"),
    "constrained dimension": (
        lambda d: d["constraints"]["arch"][0]["factors"].update(Z=1),
        "constraints.arch[0].factors",
    ),
    "permutation": (lambda d: d["constraints"]["arch"][0].update(permutation="NN"), "constraints.arch[0].permutation"),
    "factor twice": (
        lambda d: d["constraints"]["paper"][0].update(factors={"N": 1}),
        "constraints.paper[0].factors.N: this factor is given twice",
    ),
    "upper bound of what is fixed": (
        lambda d: d["constraints"]["arch"][0].update(max_factors={"N": 2}),
        "constraints.arch[0].max_factors.N: this factor is given twice",
    ),
    "utilization of temporal loops": (
        lambda d: d["constraints"]["arch"][2].update(min_utilization=0.5),
        "constraints.arch[2].min_utilization: only the fan-out",
    ),
    "utilization": (
        lambda d: d["constraints"]["arch"][0].update(min_utilization=1.5),
        "constraints.arch[0].min_utilization",
    ),
    "upper bound of zero": (
        lambda d: d["constraints"]["arch"][0].update(max_factors={"M": 0}),
        "constraints.arch[0].max_factors.M",
    ),
    "permutation twice": (
        lambda d: d["constraints"]["paper"].append(
            {"level": "shared_glb", "type": "spatial", "permutation": "NCPRSQM"}
        ),
        "constraints.paper[3].permutation: this permutation is given twice",
    ),
    "permutation twice in one list": (
        lambda d: d["constraints"]["paper"].append(dict(d["constraints"]["paper"][0])),
        "constraints.paper[3].permutation: this permutation is given twice",
    ),
    "split twice": (
        lambda d: d["constraints"]["arch"].insert(1, {"level": "DummyBuffer", "type": "spatial", "split": 4}),
        "constraints.arch[1].split: this split is given twice",
    ),
    "split": (lambda d: d["constraints"]["arch"][0].update(split=9), "constraints.arch[0].split"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_by_line_and_key(case, tmp_path, capsys):
    change, key = BAD[case]
    path = tmp_path / "mine.yaml"
    path.write_text(bad(change))
    with pytest.raises(InputError) as caught:
        load_arch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line ") and key in message and "\n" not in message
    assert main(["map", "--arch", str(path), "--layer", "C=4"]) == 2
    assert key in capsys.readouterr().err


def test_line_number_is_that_of_the_key(tmp_path):
    path = tmp_path / "mine.yaml"
    lines = bad(lambda d: d["levels"][2].update(capacity_words=-12)).splitlines()
    path.write_text("\n".join(lines))
    wanted = next(number for number, line in enumerate(lines, start=1) if "-12" in line)
    with pytest.raises(InputError, match=f"line {wanted}:"):
        load_arch(path)


SMALL = """name: small
mac: {name: mac, mesh: [4, 1], energy_pj: 1.0}
levels:
- {name: reg, mesh: [4, 1], capacity_words: 16, word_bits: 16, block_words: 1,
   energy_pj: {read: 0.1, fill: 0.2, update: 0.3}, keep: [Weights]}
- {name: DRAM, mesh: [1, 1], capacity_words: unlimited, word_bits: 16, block_words: 1,
   energy_pj: {read: 128, fill: 128, update: 128}, keep: [Weights, Inputs, Outputs]}
"""


def changed(tmp_path, old="", new=""):
    """`SMALL` with `old` replaced by `new`, as a file."""
    assert old in SMALL
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL.replace(old, new, 1) if old else SMALL + new)
    return path


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("5E4", 5e4), ("+1.5e2", 150.0), (".5", 0.5), ("2.", 2.0), ("0", 0.0), ("0.0", 0.0), ("1E+2", 100.0),
     ("0x10", 16.0), ("010", 10.0)],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(tmp_path, text, number):
    assert load_arch(changed(tmp_path, "fill: 0.2", f"fill: {text}")).levels[0].fill_pj == number


@pytest.mark.parametrize(
    "text", ["1_000", "12:30", "yes", "1e", ".", "-1", "-.inf", ".nan", ".inf", "'1'", "null", "[1]"]
)
def test_what_is_no_energy_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"mine\.yaml, line 5: levels\[0\]\.energy_pj\.fill: must be a number"):
        load_arch(changed(tmp_path, "fill: 0.2", f"fill: {text}"))


@pytest.mark.parametrize(("text", "count"), [("1e3", 1000), ("64.0", 64), ("0x20", 32)])
def test_whole_floats_are_counts(tmp_path, text, count):
    capacity = load_arch(changed(tmp_path, "capacity_words: 16", f"capacity_words: {text}")).levels[0].capacity_words
    assert capacity == count and isinstance(capacity, int)


@pytest.mark.parametrize("name", ["Y", "N", "on", "off", "no", "'1e3'", "'true'", "a level", "12:30", "1_000"])
def test_names_stay_text(tmp_path, name):
    assert load_arch(changed(tmp_path, "reg", name)).levels[0].name == name.strip("'")


@pytest.mark.parametrize(
    ("text", "read", "write"),
    [("{read: 8}", 8.0, None), ("{write: 0.5}", None, 0.5), ("{read: unlimited, write: 2}", None, 2.0), ("{}", None, None),
     ("unlimited", None, None), ("{read: 1, write: 2}", 1.0, 2.0)],
)  # fmt: skip
def test_bandwidth_of_one_direction(tmp_path, text, read, write):
    level = load_arch(changed(tmp_path, "keep: [Weights]", f"bandwidth: {text}, keep: [Weights]")).levels[0]
    assert (level.read_bandwidth, level.write_bandwidth) == (read, write)


def test_zero_energies_and_levels_that_keep_nothing_map(tmp_path, capsys):
    path = changed(tmp_path, "energy_pj: {read: 0.1, fill: 0.2, update: 0.3}, keep: [Weights]",
                   "energy_pj: {read: 0, fill: 0.0, update: 0}, bandwidth: {write: 1}, keep: []")  # fmt: skip
    assert load_arch(path).levels[0].keep == (False, False, False)
    assert main(["map", "--arch", str(path), "--layer", "M=4"]) == 0
    # DRAM is all that costs: 4 weights and 1 input read, 4 outputs written, beside 4 MACs.
    assert f"{9 * 128 + 4:.0f}" in capsys.readouterr().out.replace(",", "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = SMALL.replace("reg", "régistre").replace("\n", end)
    content = text.encode(encoding) if encoding != "utf-16-le-bom" else b"\xff\xfe" + text.encode("utf-16-le")
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert load_arch(path).levels[0].name == "régistre"


def test_merge_keys_are_read(tmp_path):
    path = changed(tmp_path, "energy_pj: {read: 0.1, fill: 0.2, update: 0.3}",
                   "energy_pj: &all {read: 0.1, fill: 0.2, update: 0.3}")  # fmt: skip
    path.write_text(path.read_text().replace("{read: 128, fill: 128, update: 128}", "{<<: *all, read: 5}"))
    assert [load_arch(path).levels[1].read_pj, load_arch(path).levels[1].fill_pj] == [5.0, 0.2]
    path.write_text(path.read_text().replace("read: 5}", "read: -5}"))
    with pytest.raises(InputError, match=r"line 7: levels\[1\]\.energy_pj\.read"):
        load_arch(path)


NO_YAML = {
    "open list": (b"name: [", "line 1: not valid YAML"),
    "text": (b"just text", "is a mapping with the keys"),
    "empty": (b"", "the file is empty"),
    "comment": (b"# nothing", "the file is empty"),
    "list": (b"- a\n- b", "is a mapping with the keys"),
    "tab": (b"mac:\n\tname: x", "line 2: not valid YAML: .* not with tabs"),
    "key twice": (SMALL.encode() + b"name: other\n", "line 8: not valid YAML: the key 'name' is given twice"),
    "key twice inside": (SMALL.replace("fill: 0.2", "fill: 0.2, fill: 1").encode(), "line 5: .*'fill' is given twice"),
    "two documents": (b"---\na: 1\n---\nb: 1\n", "line 3: .*one document"),
    "latin 1": (b"a: 1\nname: \xe9\n", "line 2: not text in UTF-8"),
    "utf-16 without a mark": ("name: a".encode("utf-16-le"), r"line 1: the character U\+0000"),
    "control character": (b"a: 1\nb: \x07\n", r"line 2: the character U\+0007"),
    "unknown tag": (b"name: !!python/object:os.system x", "line 1: not valid YAML: .*tag"),
    "false tag": (b"name: !!int x", "line 1: not valid YAML: 'x' is no integer"),
    "unknown alias": (b"name: *a", "line 1: not valid YAML: .*alias"),
    "endless alias": (b"name: &a [*a]", "line 1: not valid YAML: an alias stands inside"),
    "endless merge": (b"name: &a {<<: *a}", "line 1: not valid YAML: an alias stands inside"),
    "deep": (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    "long integer": (b"name: " + b"9" * 5000, "line 1: .*too large"),
    "list as a key": (b"? [a]\n: b\n", "line 1: not valid YAML: .*unhashable"),
    "half a pair": (b'name: "\\ud800"', "line 1: .*surrogate"),
}


@pytest.mark.parametrize("case", NO_YAML)
def test_files_that_are_no_yaml(tmp_path, case):
    content, problem = NO_YAML[case]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        load_arch(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, "x" * 5000, "a\0b"):
        with pytest.raises(InputError):
            load_arch(path)
    with pytest.raises(InputError, match="one of eyeriss"):
        load_arch("eyeris")


def test_no_rule_is_given_twice_in_an_accelerator_made_in_python():
    eyeriss = load_arch("eyeriss")
    again = (*eyeriss.paper_constraints, Constraint("DRAM", False, permutation="CMRSNPQ"))
    with pytest.raises(InputError, match="'eyeriss': permutation of the temporal loops of DRAM is given twice"):
        dataclasses.replace(eyeriss, paper_constraints=again)


def test_widths_beyond_the_word_are_refused():
    with pytest.raises(InputError, match="8-bit words of"):
        load_arch("eyeriss_8bit_same").check_widths(BitWidths(9, 8, 8), Layer(name="conv1"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_say_where_their_numbers_are_from(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert path.read_text().startswith("# ") and len(head) > 300
    # Of energies and areas, which no description of an architecture tells.
    assert re.search("ERT.yaml|Horowitz|eyeriss.yaml", head) and re.search("[Aa]reas?", head)


@given(st.data())
def test_findings_of_several_mistakes_begin_with_the_one_that_reading_tells(tmp_path_factory, data):
    """Whatever is wrong together, nothing fails on the way to what else is wrong, and a file without findings is read."""
    document = yaml.safe_load((FOLDER / "eyeriss.yaml").read_text())
    for _ in range(data.draw(st.integers(0, 4))):
        node: dict | list = document
        while True:
            key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
                break
            node = node[key]
        node[key] = data.draw(st.sampled_from([None, 3, -1, "DRAM", "spatial", [], {}, [1, 1], ["Weights"], {"C": 2}]))
    path = tmp_path_factory.getbasetemp() / "mistaken.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    found = findings(path)
    if found:
        with pytest.raises(InputError) as caught:
            read_accelerator(path)
        assert str(caught.value) == str(found[0])
    else:
        read_accelerator(path)
