"""`mqjax search`: options, runs that are killed and resumed, networks that are no chain.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from networks import drawn, tiny_graph

from mqjax.accuracy.trained import check_sizes, trained_network
from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.mapper.table import cost_table
from mqjax.models import architecture
from mqjax.network.cost import layer_widths
from mqjax.study.assignments import parse_assignment
from mqjax.study.config import StudyConfig
from searching import SMALL


def test_run_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["search", *SMALL, "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--arch", "abacus"], "abacus"),
        (["--arch", "simba", "--no-pad"], "factors of M multiply to 4"),
        (["--network", "resnet"], "resnet"),
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--objectives", "error,beauty"], "beauty"),
        (["--population", "3"], "population"),
        (["--images", "0"], "images"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--images", "1000000"], "fewer"),
        (["--accuracy", "finetune"], "finetune:K"),
        (["--finetune-steps", "many"], "finetune:K"),
        (["--retrain", "-1"], "retrain"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_bad_options_of_the_command(tmp_path, capsys, options, word):
    assert main(["search", *options, "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert word in message and "Traceback" not in message and not (tmp_path / "run").exists()


def test_resume_refuses_what_does_not_belong(tmp_path, capsys):
    assert main(["search", "--resume", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["search", "--resume", str(tmp_path), "--seed", "4"]) == 2
    assert "--seed" in capsys.readouterr().err


def test_search_by_short_training_retrains_its_front(tiny, tmp_path, monkeypatch, capsys):
    import mqjax.data

    few = mqjax.data.load_dataset("fashion_mnist").sized("validation", 32, limit=128)
    monkeypatch.setattr("mqjax.study.retraining.training_images", lambda *_: (few, few))
    monkeypatch.setenv("MQJAX_CACHE", str(tmp_path / "cache"))
    options = ["--population", "8", "--generations", "0", "--images", "64", "--test-images", "100", "--no-surrogate"]
    options += ["--network", tiny, "--finetune-steps", "0", "--retrain", "1", "--out", str(tmp_path / "run")]
    assert main(["search", *options]) == 0
    assert "retrained" in capsys.readouterr().out
    document = json.loads((tmp_path / "run" / "front.json").read_text())
    assert document["accuracy"]["kind"] == "finetune:0"
    assert document["retrained"] == {"epochs": 1, "training_images": 128}
    for member in document["members"]:
        assert 0 < member["retrained_accuracy"] <= 1 and 0 < member["test_accuracy"] <= 1
    assert "retrained_accuracy" in (tmp_path / "run" / "front.csv").read_text().splitlines()[0]
    assert "after 1 epoch of 128 images" in (tmp_path / "run" / "report.html").read_text()
    widths = parse_assignment(f"{tmp_path / 'run'}:0", tiny_graph().wiring())
    assert [f"{i}/{w}" for i, w in widths.reshape(-1, 2)] == [x["bits"][:3] for x in document["members"][0]["layers"]]
    with pytest.raises(InputError, match="no member 99"):
        parse_assignment(f"{tmp_path / 'run'}:99", tiny_graph().wiring())


def test_killed_command_resumes_to_the_identical_front(tiny, tmp_path, monkeypatch, capsys):
    """SIGKILL in the rehearsal, among the first population, then after it, with --resume each time; another run is left alone."""
    monkeypatch.setenv("MQJAX_CACHE", str(tmp_path / "cache"))
    command, python = ["search", *SMALL, "--network", tiny], [sys.executable, "-m", "mqjax.cli"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*command, "--out", str(whole)]) == 0
    # The second run must measure all by itself, or it would be over before it is killed.
    for known in ("accuracy", "divergence"):
        shutil.rmtree(tmp_path / "cache" / known)
    resume = ["search", "--resume", str(killed)]
    cache = tmp_path / "cache"
    begun = ((cache, "divergence/*.csv"), (cache, "accuracy/*.csv"), (killed, "population/0*"))
    for run, (folder, pattern) in zip(([*command, "--out", str(killed)], resume, resume), begun, strict=True):
        process = subprocess.Popen([*python, *run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (killed / "front.json").exists()
    assert main(resume) == 0
    for name in ("front.csv", "evaluated.csv", "rehearsal.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_network_that_is_no_chain_is_searched_and_priced_by_its_wiring(tmp_path, archs):
    """A projection and the layer beside it read one tensor, at one width."""
    from mqjax.models.checkpoint import save_checkpoint

    sizes = {"width_multiplier": 0.1, "resolution": 32, "classes": 10, "channels": 1}
    network = drawn(architecture("resnet18_narrow", **sizes))
    save_checkpoint(tmp_path / "net", network, {"width_multiplier": 0.1, "dataset": "fashion_mnist"})
    command = ["search", "--network", "resnet18_narrow", "--checkpoint", str(tmp_path / "net"), *SMALL]
    assert main([*command, "--no-surrogate", "--out", str(tmp_path / "run")]) == 0
    document = json.loads((tmp_path / "run" / "front.json").read_text())
    wiring, layers = network.architecture.wiring(), network.architecture.layers()
    table = cost_table(archs["eyeriss"], layers, cache=tmp_path.parent / "cache")
    for member in document["members"]:
        widths = [tuple(map(int, layer["bits"].split("/"))) for layer in member["layers"]]
        stored = {}
        for (i, _, o), read, written in zip(widths, wiring.reads, wiring.writes, strict=True):
            assert stored.setdefault(read, i) == i and stored.setdefault(written, o) == o
        energy = sum(table.best["energy"][table.index[n]][i - 2, w - 2, o - 2] for n, (i, w, o) in enumerate(widths))
        assert member["objectives"]["energy"] == pytest.approx(energy, rel=1e-12)
        genome = parse_assignment(f"{tmp_path / 'run'}:{member['id']}", wiring)
        assert [(b.inputs, b.weights, b.outputs) for b in layer_widths(genome, wiring)] == widths
    assert len(wiring.reads) > len(set(wiring.reads)), "some tensor is read twice"


def test_search_has_the_options_of_map_and_table():
    """All that say what the accelerator, the network and the spaces are; a single layer has no accuracy to search by."""
    options = {}
    for name in ("map", "table", "search"):
        parser = argparse.ArgumentParser()
        importlib.import_module(f"mqjax.commands.{name}").add_arguments(parser)
        options[name] = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    shared = options["map"] & options["table"] - {"--help"}
    assert len(shared) >= 12 and shared - {"--out"} <= options["search"]
    assert options["map"] - shared - options["search"] == {
        "--layer", "--shape", "--bits", "--metric", "--pareto", "--figure", "--json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--width-multiplier", "0.5"], "--width-multiplier 0.5 does not fit: the trained network"),
        (["--resolution", "224"], "--resolution 224"),
        (["--classes", "1000"], "--classes 1000"),
        (["--channels", "3"], "--channels 3"),
    ],
)
def test_sizes_that_contradict_the_trained_network_are_refused(tmp_path, capsys, options, word):
    assert main(["search", *options, "--images", "16", "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert word in message and message.count("\n") == 1 and not (tmp_path / "run").exists()


def test_sizes_of_the_trained_network_may_be_given(tiny):
    sizes = {"width_multiplier": 0.25, "resolution": 32, "classes": 10, "channels": 1}
    check_sizes(trained := trained_network("mobilenetv1", "fashion_mnist"), sizes)
    assert StudyConfig(**sizes).sizes == sizes and StudyConfig().sizes == {}
    check_sizes(trained_network(tiny, "fashion_mnist"), {"resolution": 32})
    with pytest.raises(InputError, match=f"{trained.name} has 32"):
        check_sizes(trained, {"resolution": 64})


def test_a_judge_of_ones_own_has_its_sizes(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "experiments")
    options = ["--judge", "custom_judge:make", "--resolution", "32", "--out", str(tmp_path / "run")]
    assert main(["search", *options]) == 2 and "--resolution cannot be given with a judge" in capsys.readouterr().err
