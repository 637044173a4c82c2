"""Accelerator files: the shipped ones equal the reference's facts, bad ones are named by file, line and key."""

from __future__ import annotations

import pytest
import yaml

from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.hw import FOLDER, load_arch, shipped
from mqjax.packing import operands_per_word
from mqjax.types import BitWidths, Layer


def test_six_accelerators_ship():
    assert shipped() == [
        "eyeriss", "eyeriss_8bit_changed", "eyeriss_8bit_same", "simba", "simba_8bit_changed", "simba_8bit_same",
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
    "zero energy": (lambda d: d["levels"][4]["energy_pj"].update(read=0), "levels[4].energy_pj.read"),
    "negative energy": (lambda d: d["mac"].update(energy_pj=-2.2), "mac.energy_pj"),
    "energy text": (lambda d: d["mac"].update(energy_pj="cheap"), "mac.energy_pj"),
    "infinite energy": (lambda d: d["mac"].update(energy_pj=float("inf")), "mac.energy_pj"),
    "zero bandwidth": (lambda d: d["levels"][0]["bandwidth"].update(read=0), "levels[0].bandwidth.read"),
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


def test_files_that_are_no_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in ("name: [", "just text", "", "- a\n- b"):
        path.write_text(text)
        with pytest.raises(InputError, match="mine.yaml"):
            load_arch(path)
    with pytest.raises(InputError, match="one of eyeriss"):
        load_arch("eyeris")


def test_widths_beyond_the_word_are_refused():
    with pytest.raises(InputError, match="8-bit words of"):
        load_arch("eyeriss_8bit_same").check_widths(BitWidths(9, 8, 8), Layer(name="conv1"))
