"""What the report of a search shows.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import dataclasses
import re

import pytest

from mqjax.objectives import OBJECTIVES
from mqjax.show.figures import _front_figure, _without_network, highlighted
from mqjax.study.runs import read_evaluated
from mqjax.study.stored import read_front
from searching import finished_run


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["mobilenetv1_conv1", "mobilenetv1_dw1"], ["conv1", "dw1"]),
        (["resnet18_narrow_conv1", "resnet18_narrow_layer1_0_conv1"], ["conv1", "layer1_0_conv1"]),
        (["net_pw1", "net_pw2"], ["pw1", "pw2"]),
        (["hidden", "classes"], ["hidden", "classes"]),
        (["net_fc"], ["fc"]),
    ],
)
def test_labels_leave_out_the_networks_name(names, shown):
    assert _without_network(names) == shown


def test_less_usual_objectives_have_axes_and_columns(table, tmp_path, monkeypatch):
    """What the registry says of an objective is what figures and page show: nothing else names it."""
    silicon = dataclasses.replace(OBJECTIVES["area"], label="silicon", scales=((1.0, "um^2"), (1e6, "football fields")))
    monkeypatch.setitem(OBJECTIVES, "area", silicon)
    names = ("error", "activation_memory", "area", "edp")
    finished_run(tmp_path / "run", table, objectives=names)
    document = read_front(tmp_path / "run")
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", (tmp_path / "run" / "report.html").read_text())
    head = next(cells for cells in (re.findall("<th>(.*?)</th>", row) for row in rows) if cells[0] == "member")
    units = ("validation error (%)", "peak activation memory (KiB)", "silicon (football fields)")
    assert tuple(head[1:4]) == units and head[4].startswith("EDP (")
    assert [title.split(" (")[0] for title in head[6:-1]] == ["energy", "delay", "weight memory"], (
        "totals that were no objective"
    )
    member = next(re.findall("<td>(.*?)</td>", row) for row in rows if row.startswith(("<td>0<", "<td>1<")))
    values = document["members"][int(member[0])]["objectives"]
    divisors = (0.01, 8192.0, 1e6)
    assert [float(cell) for cell in member[1:4]] == pytest.approx(
        [values[name] / divisor for name, divisor in zip(names, divisors, strict=False)], rel=1e-4
    )
    evaluated = read_evaluated(tmp_path / "run")
    labels = {name: _front_figure(document, evaluated, name, "error", None).axes[0].get_xlabel() for name in names[1:]}
    assert (labels["activation_memory"], labels["area"]) == units[1:] and labels["edp"] == head[4]
    assert all((tmp_path / "run" / "figures" / f"front_{name}.png").exists() for name in labels)
    # Who is frugal is a matter of the first objective that widths change.
    pick, eight = highlighted(document), document["uniform"][-1]
    able = [m for m in document["members"] if m["objectives"]["error"] <= eight["objectives"]["error"]]
    assert pick["objectives"]["activation_memory"] == min(m["objectives"]["activation_memory"] for m in able)
    assert "less peak activation memory than 8 bits everywhere" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "largest", "shown"),
    [
        ("energy", 41.3e6, (1e6, "energy (\N{MICRO SIGN}J)")),
        ("energy", 0.5, (1.0, "energy (pJ)")),
        ("delay", 401_408, (1e3, "delay (kcycles)")),
        ("edp", 3e12, (1e12, "EDP (J*cycles)")),
        ("error", 0.08, (0.01, "validation error (%)")),
        ("memory", 2**23, (2.0**23, "weight memory (MiB)")),
        ("area", 2.5e6, (1e6, "area (mm^2)")),
    ],
)
def test_units_for_people(name, largest, shown):
    assert OBJECTIVES[name].scaled(largest) == shown
