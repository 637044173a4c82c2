"""Run folders and the reports of searches.

Guards: docs/SEARCH.md, "The search"; README.md, "From the command line".
"""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from mqjax.cli import main
from mqjax.io.records import evaluate_records
from mqjax.io.timeloop import read_mapping
from searching import LAYERS, finished_run


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, finished_run(folder, table)


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
