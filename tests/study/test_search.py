"""Search, run folders and reports on a tiny problem: same seed, same front; a killed run resumes to it.

Guards: docs/SEARCH.md, "The search"; README.md, "From the command line".
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from networks import drawn, tiny_graph

from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.io.files import AppendedTable
from mqjax.io.records import evaluate_records
from mqjax.io.timeloop import read_mapping
from mqjax.mapper.table import cost_table
from mqjax.models import architecture
from mqjax.network.cost import layer_widths, network_cost
from mqjax.network.wiring import Wiring
from mqjax.show.report import write_report
from mqjax.study.assignments import parse_assignment
from mqjax.study.bitsearch import search
from mqjax.study.pareto import pareto_front
from mqjax.study.runs import claim, describe, write_run
from mqjax.types import BitWidths, Layer

LAYERS = (
    Layer(C=1, M=8, R=3, S=3, P=8, Q=8, name="net_conv1"),
    Layer(C=8, R=3, S=3, P=8, Q=8, shape="depthwise", name="net_dw1"),
    Layer(C=8, M=16, P=8, Q=8, name="net_pw1"),
    Layer(C=8, M=16, P=8, Q=8, name="net_pw2"),
    Layer(C=16, M=12, name="net_fc"),
)


class Formula:
    """A made-up accuracy that falls with every bit taken away."""

    cache_key = "formula"

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        self.asked += len(genomes)
        weights = np.linspace(1.0, 2.0, genomes[0].size).reshape(genomes.shape[1:])
        return 0.9 - 0.05 * (weights * 2.0 ** (2.0 - genomes)).sum(axis=(1, 2))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    from mqjax.hw import load_arch

    return cost_table(load_arch("eyeriss"), LAYERS, cache=tmp_path_factory.mktemp("tables"))


def run(table, **options):
    return search(table, Formula(), population=16, generations=6, seed=5, **options)


def fronts_equal(a, b) -> bool:
    return np.array_equal(a.genomes[a.front], b.genomes[b.front]) and np.array_equal(
        a.objectives[a.front], b.objectives[b.front]
    )


# --- network cost ----------------------------------------------------------------------------------------------------


def test_network_cost_is_the_sum_of_layer_optima(table):
    genomes = np.random.default_rng(0).integers(2, 9, (50, len(LAYERS), 2))
    # Each metric alone, so that each is that of its own optimal mappings.
    names = ("energy", "edp_sum", "delay", "memory")
    found = np.concatenate([network_cost(table, genomes, [name]) for name in names], axis=1)
    for genome, costs in zip(genomes, found, strict=True):
        sums = np.zeros(4)
        for number, bits in enumerate(layer_widths(genome, Wiring.chain(LAYERS))):
            at = tuple(width - 2 for width in (bits.inputs, bits.weights, bits.outputs))
            u = table.index[number]
            sums += [
                *(table.best[m][u][at] for m in ("energy", "edp", "delay")),
                LAYERS[number].elements("Weights") * bits.weights,
            ]
        assert np.array_equal(costs, sums)


def test_output_width_is_the_next_input_width():
    widths = layer_widths(np.array([[2, 3], [4, 5], [6, 7]]), Wiring.chain(LAYERS[:3]))
    assert widths == [BitWidths(2, 3, 4), BitWidths(4, 5, 6), BitWidths(6, 7, 8)]


def test_network_cost_does_not_depend_on_the_batch(table):
    genomes = np.random.default_rng(1).integers(2, 9, (40_000, len(LAYERS), 2))
    together = network_cost(table, genomes)
    alone = np.concatenate([network_cost(table, genomes[i : i + 1]) for i in range(0, 40_000, 4001)])
    assert np.array_equal(together[::4001], alone)


@pytest.mark.parametrize(
    ("genomes", "objectives", "word"),
    [
        (np.full((1, 2, 2), 8), ["energy"], "shape"),
        (np.full((1, 5, 2), 9), ["energy"], "2..8"),
        (np.full((1, 5, 2), 8), ["speed"], "speed"),
    ],
)
def test_network_cost_refuses_bad_input(table, genomes, objectives, word):
    with pytest.raises(InputError, match=word):
        network_cost(table, genomes, objectives)


def test_table_remembers_the_optimal_mappings(table, archs):
    bits = BitWidths(4, 3, 8)
    for number, layer in enumerate(LAYERS):
        record = {
            "dims": layer.dims,
            "shape": layer.shape,
            "bitwidths": {"Inputs": 4, "Weights": 3, "Outputs": 8},
            "mapping": table.mapping("energy", number, bits),
        }
        energy = evaluate_records(archs["eyeriss"], [record])[0]["stats"]["totals"]["energy_pJ"]
        assert energy == table.best["energy"][table.index[number]][2, 1, 6]
    assert len(table.unique) == 4 and list(table.index) == [0, 1, 2, 2, 3] and table.covered


# --- search ----------------------------------------------------------------------------------------------------------


def test_front_is_the_front_of_everything_and_covers_the_uniform_assignments(table):
    result = run(table)
    objectives = result.objectives
    assert len(result.genomes) == 16 * 7
    expected = {tuple(values) for values in objectives[pareto_front(objectives)]}
    assert {tuple(values) for values in objectives[result.front]} == expected
    for position in result.uniform().values():
        assert (objectives[result.front] <= objectives[position]).all(axis=1).any()
    assert np.array_equal(objectives[:, 0], 1 - Formula()(result.genomes))
    assert np.array_equal(objectives[:, 1:], network_cost(table, result.genomes))


def test_same_seed_same_front(table):
    assert fronts_equal(run(table), run(table))
    other = search(table, Formula(), population=16, generations=6, seed=6)
    assert not np.array_equal(other.genomes, run(table).genomes)


@pytest.mark.parametrize("objectives", [("energy", "memory"), ("error", "energy", "memory"), ("delay", "error")])
def test_any_objectives(table, objectives):
    result = run(table, objectives=objectives)
    assert result.objectives.shape[1] == len(objectives)
    assert result.names == objectives


def test_hardware_front_comes_close_to_the_exact_one(table):
    """Energy and memory are sums over a chain, so all 7^10 genomes can be compared through dynamic programming."""
    from mqjax.study.pareto import hypervolume

    energy = [table.best["energy"][u] for u in table.index]
    # States: input width of the next layer -> set of (energy, memory) that nothing dominates.
    fronts = {i: np.zeros((1, 2)) for i in range(7)}
    for number in range(len(LAYERS)):
        nexts = range(7) if number < len(LAYERS) - 1 else (6,)
        elements, grown = LAYERS[number].elements("Weights"), {}
        for o in nexts:
            sums = [
                fronts[i] + [energy[number][i, w, o], elements * (w + 2)]
                for i in range(7)
                for w in range(7)
                if i in fronts
            ]
            points = np.unique(np.concatenate(sums), axis=0)
            grown[o] = points[pareto_front(points)]
        fronts = grown
    exact = fronts[6]
    result = search(table, population=64, generations=40, seed=0, objectives=("energy", "memory"))
    found = result.objectives[result.front]
    reference = result.objectives.max(axis=0) * 1.01
    assert hypervolume(found, reference) <= hypervolume(exact, reference) * (1 + 1e-12)
    assert hypervolume(found, reference) >= 0.99 * hypervolume(exact, reference)


def test_known_accuracies_are_not_computed_again(table, tmp_path):
    first, second = Formula(), Formula()
    options = {"population": 16, "generations": 3, "seed": 1, "cache": tmp_path}
    a, b = search(table, first, **options), search(table, second, **options)
    assert fronts_equal(a, b) and first.asked > 0 and second.asked == 0


def test_cache_file_survives_a_torn_line(tmp_path):
    path = tmp_path / "cache.csv"
    known = AppendedTable(path)
    known.add("88", 0.875)
    known.add("44", 0.5)
    path.write_text(path.read_text()[:-4])  # a kill in the middle of a write
    again = AppendedTable(path)
    assert again.get("88") == 0.875 and again.get("44") is None
    again.add("44", 0.25)
    assert AppendedTable(path).get("44") == 0.25


def test_interrupted_search_resumes_to_the_identical_front(table, tmp_path):
    class Interrupted(Formula):
        def __call__(self, genomes):
            if self.asked > 55:
                raise KeyboardInterrupt
            return super().__call__(genomes)

    with pytest.raises(KeyboardInterrupt):
        search(table, Interrupted(), population=16, generations=6, seed=5, folder=tmp_path)
    resumed = run(table, folder=tmp_path)
    whole = run(table)
    assert fronts_equal(resumed, whole) and np.array_equal(resumed.genomes, whole.genomes)


def test_torn_checkpoint_falls_back_to_the_one_before(table, tmp_path):
    whole = run(table, folder=tmp_path)
    last = max(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name))
    for path in last.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:3])
    assert fronts_equal(run(table, folder=tmp_path), whole)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"objectives": ("error", "beauty")}, "beauty"),
        ({"objectives": ("error",)}, "two"),
        ({"population": 7}, "population"),
        ({"population": 6}, "population"),
        ({"generations": -1}, "generations"),
    ],
)
def test_bad_options_are_named(table, options, word):
    with pytest.raises(InputError, match=word):
        search(table, Formula(), **options)


def test_error_needs_an_accuracy(table):
    with pytest.raises(InputError, match="accuracy"):
        search(table)


# --- run folders and reports -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    from mqjax.hw import load_arch

    folder = tmp_path_factory.mktemp("runs") / "run"
    claim(folder, {"network": "net", "dataset": "none", "seed": 5})
    result = run(table, folder=folder / "population")
    about = {"test": {"split": "test", "images": 1, "float": 0.9}}
    document = describe(load_arch("eyeriss"), table, result, test_accuracy=Formula(), about=about)
    write_run(folder, document, result)
    write_report(folder)
    return folder, result


def test_run_folder_holds_what_is_promised(finished):
    folder, result = finished
    document = json.loads((folder / "front.json").read_text())
    assert len(document["members"]) == len(result.front)
    with open(folder / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["energy (pJ)"]) for row in rows] == list(result.objectives[result.front, 1])
    assert {"error", "energy"} == set(document["objectives"])
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["seed"] == 5 and "jax" in config["versions"] and config["device"]["kind"]
    for name in ("front_energy", "widths", "levels", "layers", "convergence"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_energies_of_a_run_add_up(finished, archs):
    folder, _ = finished
    document = json.loads((folder / "front.json").read_text())
    for member in [*document["members"], *document["uniform"]]:
        assert member["energy_pj"] == pytest.approx(member["objectives"]["energy"], rel=1e-12)
        for layer in member["layers"]:
            assert sum(layer["level_pj"].values()) == pytest.approx(layer["energy_pj"], rel=1e-12)
    layer = document["members"][0]["layers"][2]
    mapping = read_mapping(folder / layer["mapping_file"], archs["eyeriss"].level_names)
    widths = dict(zip(("Inputs", "Weights", "Outputs"), map(int, layer["bits"].split("/")), strict=True))
    record = {"dims": LAYERS[2].dims, "shape": "cnn", "bitwidths": widths, "mapping": mapping}
    assert evaluate_records(archs["eyeriss"], [record])[0]["stats"]["totals"]["energy_pJ"] == layer["energy_pj"]


def test_report_needs_no_other_file(finished, tmp_path, capsys):
    folder, _ = finished
    text = (folder / "report.html").read_text()
    assert (
        "data:image/png;base64," in text and 'src="figures' not in text and "http" not in text.replace("http-equiv", "")
    )
    assert "proven optimum" in text and "less energy than 8 bits everywhere" in text
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "report.html").unlink()
    assert main(["report", str(copy)]) == 0 and (copy / "report.html").read_text() == text


def test_report_beside_another_run(finished, tmp_path, capsys):
    folder, _ = finished
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(folder, copy)
    shutil.copytree(folder, other)
    alone = (copy / "figures" / "convergence.png").read_bytes()
    assert main(["report", str(copy), "--against", str(other)]) == 0
    assert (copy / "figures" / "convergence.png").read_bytes() != alone
    document = json.loads((other / "front.json").read_text())
    (other / "front.json").write_text(json.dumps({**document, "arch": "simba"}))
    assert main(["report", str(copy), "--against", str(other)]) == 2
    assert "its arch" in capsys.readouterr().err


def test_report_of_what_is_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    (tmp_path / "front.json").write_text("{torn")
    assert main(["report", str(tmp_path)]) == 2
    assert "front.json" in capsys.readouterr().err


# --- the command -----------------------------------------------------------------------------------------------------

SMALL = ["--population", "8", "--generations", "2", "--images", "64", "--test-images", "100", "--seed", "3"]


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
    """SIGKILL among the first population, then after it, with --resume each time; another run is left alone."""
    monkeypatch.setenv("MQJAX_CACHE", str(tmp_path / "cache"))
    command, python = ["search", *SMALL, "--network", tiny], [sys.executable, "-m", "mqjax.cli"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*command, "--out", str(whole)]) == 0
    # The second run must compute its accuracies itself, or it would be over before it is killed.
    shutil.rmtree(tmp_path / "cache" / "accuracy")
    resume = ["search", "--resume", str(killed)]
    begun = ((tmp_path / "cache", "accuracy/*.csv"), (killed, "population/0*"))
    for run, (folder, pattern) in zip(([*command, "--out", str(killed)], resume), begun, strict=True):
        process = subprocess.Popen([*python, *run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (killed / "front.json").exists()
    assert main(resume) == 0
    for name in ("front.csv", "evaluated.csv"):
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
