"""What newcomers meet first: help, version, near misses of names, accelerator files, folders of images.

Guards: README.md, "From the command line"; docs/ARCHITECTURE_FORMAT.md, "Accelerator files".
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from mqjax.cli import COMMANDS, EXAMPLES, main
from mqjax.errors import meant
from mqjax.hw import FOLDER, load_arch
from timeloop_imports import FILES


def refused(arguments, capsys) -> str:
    """The one sentence that refuses a command."""
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    message = capsys.readouterr().err
    assert status == 2 and "Traceback" not in message
    return message


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_at_80_columns_with_an_example_that_parses(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and EXAMPLES[command] in shown and "default: None" not in shown
    assert not re.search(r"\(default[^)]*\) \(default", " ".join(shown.split())), "a default is told twice"
    words = shlex.split(EXAMPLES[command].replace("\\\n", " "))
    parser = argparse.ArgumentParser()
    importlib.import_module(f"mqjax.commands.{command}").add_arguments(parser)
    assert words[:2] == ["mqjax", command]
    parser.parse_args(words[2:])


@pytest.mark.parametrize(
    "words", ["arch new", "arch check", "arch show", "arch import", "data prepare", "network show"]
)
def test_help_of_actions_has_an_example_that_parses(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command, action = words.split()
    with pytest.raises(SystemExit):
        main([command, action, "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and shown.count("(default: data)") == (command == "data")
    (example, *_) = re.findall(r"^  mqjax (.*)$", shown, re.M)
    parser = argparse.ArgumentParser()
    importlib.import_module(f"mqjax.commands.{command}").add_arguments(parser)
    assert example.startswith(words)
    parser.parse_args(shlex.split(example)[1:])


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and re.fullmatch(r"mqjax \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["serch"], "search"),
        (["map", "--arch", "eyeris", "--layer", "C=4"], "eyeriss"),
        (["map", "--arch", "Simba", "--layer", "C=4"], "simba"),
        (["map", "--arch", "eyeriss", "--network", "mobilnetv1"], "mobilenetv1"),
        (["map", "--arch", "eyeriss", "--layer", "Wstrid=2"], "Wstride"),
        (["map", "--arch", "eyeriss", "--layer", "C=4", "--metric", "energi"], "energy"),
        (["map", "--arch", "eyeriss", "--layer", "C=4", "--metrc=edp"], "--metric"),
        (["bench", "--parts", "prising"], "pricing"),
    ],
)
def test_near_misses(arguments, right, capsys):
    assert f"did you mean '{right}'?" in refused(arguments, capsys)


def test_far_misses_suggest_nothing(capsys):
    assert meant("zebra", ["energy", "edp"]) == "" and meant(None, ["energy"]) == ""
    assert "did you mean" not in refused(["map", "--arch", "zebra", "--layer", "C=4"], capsys)


def test_a_new_accelerator_file_is_right_and_never_overwritten(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    assert main(["arch", "new", str(path)]) == 0 and main(["arch", "check", str(path)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out and load_arch(path).mac.instances == 64
    before = path.read_bytes()
    assert "exists already" in refused(["arch", "new", str(path)], capsys) and path.read_bytes() == before


def test_check_lists_all_findings(tmp_path, capsys):
    document = yaml.safe_load((FOLDER / "eyeriss.yaml").read_text())
    document["mac"]["mesh"] = [14]
    document["levels"][1]["wordbits"] = document["levels"][1].pop("word_bits")
    document["levels"][2]["energy_pj"]["fill"] = -1
    # Rules that span keys, as far as their keys are right.
    document["levels"][5]["keep"] = ["Weights"]
    document["levels"][0]["cluster"] = 5
    document["levels"][4]["name"] = document["levels"][0]["name"]
    document["constraints"]["arch"][0] |= {"level": "DRAN", "split": 9}
    document["constraints"]["paper"].append(document["constraints"]["paper"][0])
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    lines = refused(["arch", "check", str(path)], capsys).splitlines()
    assert [line.split(": ")[2] for line in lines] == [
        "mac.mesh",
        "levels[1].word_bits",
        "levels[1].wordbits",
        "levels[2].energy_pj.fill",
        "constraints.arch[0].split",
        "levels[0].cluster",
        "levels[4].name",
        "levels[5].keep",
        "constraints.arch[0].level",
        "constraints.arch[1].level",  # of the level that lost its name
        "constraints.paper[1].level",
        "constraints.paper[3].permutation",
    ]
    assert (
        "levels[1].wordbits: this key is unknown; remove it or correct its spelling; did you mean 'word_bits'?"
        in lines[2]
    )


def test_show_draws_the_hierarchy(tmp_path, capsys):
    assert main(["arch", "show", "simba", "--svg", str(tmp_path / "a.svg"), "--png", str(tmp_path / "a.png")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in load_arch("simba").level_names) and "256 MACs" in printed
    drawn = (tmp_path / "a.svg").read_text()
    assert "GlobalBuffer" in drawn and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "command",
    [["arch", "show", "simba", "--svg"], ["map", "--arch", "simba", "--pareto", "--figure"], ["mapspace", "--out"]],
)
def test_a_figure_is_named_after_its_form(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, str(tmp_path / "figure.pdf")])
    assert stopped.value.code == 2 and "its name must end in ." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_equal_curves_of_a_mapspace_are_one():
    from mqjax.mapper.distribution import Distribution
    from mqjax.show.figures import _merged

    def spread(*counts: int):
        return {"energy": Distribution(np.arange(3.0), np.array(counts))}

    spreads = [("2/2/2", spread(1, 5)), ("2/2/3", spread(1, 4)), ("2/2/4", spread(1, 4)), ("3/3/3", spread(1, 5))]
    spreads, named = _merged(spreads, [True, False, False, True])
    assert [bits for bits, _ in spreads] == ["2/2/2, 3/3/3", "2/2/3", "2/2/4"] and named == [True, False, False]


def test_import_lists_what_has_no_counterpart(tmp_path, capsys):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("type: LPDDR4", "type: LPDDR4, addr-gen-energy: 4"))
    out = tmp_path / "mine.yaml"
    assert main(["arch", "import", str(tmp_path), "--name", "mine", "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert load_arch(out).level_names == ("spad", "glb", "DRAM") and "addr_gen_energy" in told


def test_folders_of_images(tmp_path, capsys):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "1.png")
    options = ["data", "prepare", str(tmp_path / "photos"), "--name", "pets", "--data-dir", str(tmp_path / "data")]
    assert main(options) == 0
    told = capsys.readouterr()
    assert told.out == "" and "colour images of 2 classes: test 2, train 2" in told.err
    from mqjax.data import load_dataset
    from mqjax.errors import InputError

    assert load_dataset("pets", data_dir=tmp_path / "data").classes == 2
    with pytest.raises(InputError, match="did you mean 'pets'"):
        load_dataset("petss", data_dir=tmp_path / "data")
    assert "exists already" in refused(options, capsys)
    assert "--name" in refused([*options[:4], "../x"], capsys)
    (tmp_path / "file").write_text("")
    assert "file is a file" in refused([*options[:-1], str(tmp_path / "file")], capsys)


@pytest.mark.parametrize("many", [1, 100_000])
def test_who_reads_the_output_may_stop(many):
    """Nothing is said of it, whether the output is cut within a command or when it is flushed."""
    code = (
        "import sys\nfrom mqjax import cli\nfrom mqjax.commands import evaluate\n"
        f"evaluate.run = lambda args: print('line\\n' * {many})\n"
        "sys.exit(cli.main(['evaluate', '--arch', 'eyeriss', '--records', '-']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1
