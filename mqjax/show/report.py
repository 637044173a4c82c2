"""The report of a search run: figures, and one HTML page that needs no other file.

Everything comes from front.json, config.json and evaluated.csv of the run folder (see `mqjax.study.runs`).
"""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.objectives import OBJECTIVES
from mqjax.show import figures
from mqjax.study.runs import read_evaluated
from mqjax.study.stored import read_config, read_front

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2430; background: #f5f6f8; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { margin: 2.6rem 0 .6rem; font-size: 1.25rem; }
p, li { max-width: 46rem; } .sub { color: #5b6678; margin-top: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.card { background: #fff; border: 1px solid #e1e5eb; border-radius: 10px; padding: 1rem 1.2rem; }
.card b { display: block; font-size: 1.7rem; color: #0b5fa5; } .card span { color: #5b6678; font-size: .9rem; }
figure { margin: 1rem 0; background: #fff; border: 1px solid #e1e5eb; border-radius: 10px; padding: 1rem; }
figure img { width: 100%; height: auto; } figcaption { color: #5b6678; font-size: .92rem; max-width: 50rem; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #e1e5eb; border-radius: 10px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; width: 100%; }
th, td { padding: .4rem .8rem; text-align: right; border-bottom: 1px solid #eceff3; white-space: nowrap; }
th { background: #fafbfc; font-weight: 600; } td:first-child, th:first-child { text-align: left; }
tr.pick td { background: #e8f3fc; font-weight: 600; } code { background: #e9ecf1; padding: .1em .35em; border-radius: 4px; }
"""


def write_report(folder: Path, against: Path | None = None) -> Path:
    """Write figures/*.png and report.html into a finished run folder; returns the page's path.

    against: another finished run, whose front and course are drawn too. Raises `InputError` where one is not a finished run,
    and where the two have other objectives or another accelerator or network.
    """
    folder = Path(folder)
    document = read_front(folder)
    config = read_config(folder)
    evaluated = read_evaluated(folder)
    drawn = figures.draw(document, evaluated, None if against is None else _other(document, Path(against)))
    for name, png in drawn.items():
        write_atomically(folder / "figures" / f"{name}.png", png)
    path = folder / "report.html"
    write_atomically(path, _page(document, config, drawn))
    return path


def _other(document: dict[str, Any], against: Path) -> figures.Other:
    other = read_front(against)
    for key in ("objectives", "arch", "layers"):
        if other[key] != document[key]:
            raise InputError(f"{against} cannot be compared: its {key} are not those of this run")
    return figures.Other(against.name, other)


def _page(document: dict[str, Any], config: dict[str, Any], drawn: dict[str, bytes]) -> str:
    settings = config["settings"]
    title = f"{settings['network']} on {document['arch']}"
    device, versions = config["device"], config["versions"]
    sections = [
        f"<h1>{_escaped(title)}</h1>",
        f'<p class="sub">Bit-widths of every layer by NSGA-II: {_escaped(", ".join(document["objectives"]))}; '
        f"{document['evaluations']:,} assignments evaluated, {len(document['members'])} on the front. "
        f"Images: {_escaped(settings['dataset'])}.</p>",
        _cards(document),
        _meaning(document),
        "<h2>The front</h2>",
        *(_figure(name, drawn, _FRONT_CAPTION) for name in drawn if name.startswith("front")),
        "<h2>Which widths were chosen</h2>",
        _figure(
            "widths",
            drawn,
            "Each row is a member of the front (thirty at most are shown), each column a layer. Dark is wide. A layer writes its "
            "outputs at the width at which other layers read them; the network's output has 8 bits.",
        ),
        "<h2>Where the energy goes</h2>",
        _figure(
            "levels",
            drawn,
            "Energy of the whole network by storage level and arithmetic, for the network without "
            "packing (one operand per word), the uniform assignments, and the highlighted member.",
        ),
        _figure("layers", drawn, "Energy of each layer on its best mapping."),
        "<h2>All members</h2>",
        _members(document),
        "<h2>How the search went</h2>",
        _figure(
            "convergence",
            drawn,
            "Hypervolume of everything evaluated so far, relative to the box spanned by zero "
            "and the worst uniform assignment: higher is better.",
        ),
        *(_surrogate_section(document["surrogate"], drawn) if "surrogate" in document else ()),
        _times(document),
        "<h2>This run</h2>",
        f"<p>Settings: <code>{_escaped('; '.join(f'{k}={v}' for k, v in settings.items() if 'digest' not in k))}</code></p>",
        f"<p>Made with {_escaped(', '.join(f'{k} {v}' for k, v in versions.items()))} on "
        f"{_escaped(device['kind'])} ({device['count']} device{'s' * (device['count'] > 1)}).</p>",
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mqjax: {_escaped(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def _escaped(value: Any) -> str:
    return html.escape(str(value))


def _figure(name: str, drawn: dict[str, bytes], caption: str) -> str:
    image = base64.b64encode(drawn[name]).decode()
    return (
        f'<figure><img alt="{_escaped(name)}" src="data:image/png;base64,{image}">'
        f"<figcaption>{_escaped(caption)}</figcaption></figure>"
    )


_FRONT_CAPTION = (
    "Grey: every assignment that was evaluated. Squares: one width for the whole network, labelled by it. Blue: the front, "
    "with the highlighted member ringed. Down and to the left is better. Error is on a logarithmic axis, and measured on "
    "the validation images that the search used."
)


def _card(value: str, meaning: str) -> str:
    return f'<div class="card"><b>{_escaped(value)}</b><span>{_escaped(meaning)}</span></div>'


def _words(document: dict[str, Any]) -> tuple[str, str]:
    """What the judge's objective is called, and the one by which the highlighted member is frugal."""
    return OBJECTIVES[figures.judged(document) or "error"].label, OBJECTIVES[figures.frugality(document)].label


def _cards(document: dict[str, Any]) -> str:
    pick, eight, cost = figures.highlighted(document), figures.uniform_entry(document, 8), figures.frugality(document)
    cards = []
    if pick:
        error, label = _words(document)
        for entry, meaning in (
            (eight, f"less {label} than 8 bits everywhere, at no higher {error}"),
            (document["native"], f"less {label} than one operand per memory word (no packing)"),
        ):
            before = figures.value(entry, cost) if entry else 0.0
            if before > 0:
                cards.append(_card(f"{1 - figures.value(pick, cost) / before:.0%}", meaning))
    if pick and "test_accuracy" in pick:
        compared = f" ({eight['test_accuracy']:.2%} with 8 bits)" if eight else ""
        meaning = f"accuracy by the judge's own test{compared}"
        if test := document.get("test"):
            meaning = f"accuracy on {test['images']:,} {test['split']} images{compared}; {test['float']:.2%} in float"
        cards.append(_card(f"{pick['test_accuracy']:.2%}", meaning))
        if "retrained_accuracy" in pick:
            training = document["retrained"]
            epochs = f"{training['epochs']} epoch{'' if training['epochs'] == 1 else 's'}"
            how = f"{epochs} of {training['training_images']:,} images at its widths"
            cards.append(_card(f"{pick['retrained_accuracy']:.2%}", f"the same after {how}"))
    space = document["mapspace"]
    proven = "all covered: every energy is a proven optimum" if space["covered"] else "not all proven optimal"
    size = f"{space['nominal']:,}" if space["nominal"] < 10**7 else f"{space['nominal']:.1e}"
    cards.append(_card(size, f"mappings of {space['unique_layers']} different layers, {proven}"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _meaning(document: dict[str, Any]) -> str:
    words = [
        "<p><b>How to read this.</b> Narrower operands share memory words: a 16-bit word holds two 8-bit or five 3-bit "
        "values, so fewer words move and larger tiles fit. Each layer's energy is that of its best mapping at its "
        "widths, out of the whole mapspace, by the analytical model; it is not measured on silicon.</p>"
    ]
    if padded := document["mapspace"].get("padded"):
        layers = "; ".join(f"{_escaped(name)}: {_escaped(text)}" for name, text in padded.items())
        words.append(
            "<p>Some layers are padded, since the accelerator's fixed factors do not divide their bounds. They cost what "
            f"their larger bounds cost. {layers}.</p>"
        )
    pick = figures.highlighted(document)
    if pick:
        error, label = _words(document)
        words.append(
            f"<p>The highlighted member, number {pick['id']}, is the one of least {label} whose {error} does not exceed that "
            "of 8 bits everywhere. The search chose it by validation images; the test images were looked at only afterwards, "
            "so test accuracy is the honest figure. Differences of a few tenths of a percent are within the noise of the "
            "validation set.</p>"
        )
    return "".join(words)


def _surrogate_section(worth: dict[str, Any], drawn: dict[str, bytes]) -> list[str]:
    gap = (
        ""
        if worth["gap"] is None
        else (
            f" Members of the front found cost {worth['gap']:.1%} more (median) than the least that any assignment of no higher "
            "summed loss costs: that front is exact, the sum is the approximation."
        )
    )
    ranks = rehearsal = ""
    if worth["rank_correlation"] is not None:
        ranks = f" as their errors do with a rank correlation of {worth['rank_correlation']:.3f}"
    if worth["rehearsed"]:
        rehearsal = (
            f" Then the divergence of {worth['rehearsed']:,} whole assignments was measured, along exact fronts of sums fitted to "
            "what was known so far and by NSGA-II from there"
        )
        if worth["fitted_correlation"] is not None:
            rehearsal += (
                f"; the sums fitted to all of them have a rank correlation of {worth['fitted_correlation']:.3f}"
            )
        rehearsal += "."
    return [
        "<h2>What the search began from</h2>",
        f"<p>Each kernel and each stored tensor was narrowed alone, and its loss measured. The sum of these losses ranks "
        f"assignments{ranks}.{rehearsal} The first {worth['first_population']} assignments that were judged by accuracy lie along "
        f"the front of expected loss and cost, corrected by the errors found on the way.{gap}</p>",
        _figure(
            "sensitivities",
            drawn,
            "Loss when one tensor alone is narrowed and all else has 8 bits. Bright: narrowing it costs accuracy. Dark: bits to "
            "be saved.",
        ),
    ]


def _members(document: dict[str, Any]) -> str:
    headings = {"test_accuracy": "test accuracy", "retrained_accuracy": "retrained"}
    tested = [name for name in headings if any(name in member for member in document["members"])]
    pick = figures.highlighted(document)
    entries = [(f"uniform {entry['width']}", entry) for entry in document["uniform"]]
    entries += [(str(entry["id"]), entry) for entry in document["members"]]
    names = list(document["objectives"])
    asked = {(OBJECTIVES[name].combine, OBJECTIVES[name].parts) for name in names}
    others = [o.name for o in OBJECTIVES.values() if o.total is not None and (o.combine, o.parts) not in asked]
    scales = {name: figures.axis(name, [figures.value(entry, name) for _, entry in entries]) for name in names + others}
    head = ["member", *(scales[name][1] for name in names), *(headings[name] for name in tested)]
    head += [*(scales[name][1] for name in others), "mean width I / W"]
    rows = []
    for label, entry in entries:
        widths = [tuple(map(int, layer["bits"].split("/"))) for layer in entry["layers"]]
        mean = " / ".join(f"{sum(w[axis] for w in widths) / len(widths):.1f}" for axis in (0, 1))
        numbers = {name: f"{figures.value(entry, name) / divisor:.5g}" for name, (divisor, _) in scales.items()}
        cells = [label, *(numbers[name] for name in names)]
        cells += [f"{entry[name]:.2%}" if name in entry else "" for name in tested]
        cells += [*(numbers[name] for name in others), mean]
        picked = ' class="pick"' if pick is not None and entry is pick else ""
        rows.append(f"<tr{picked}>{''.join(f'<td>{_escaped(cell)}</td>' for cell in cells)}</tr>")
    header = "".join(f"<th>{_escaped(cell)}</th>" for cell in head)
    return (
        f'<div class="scroll"><table><tr>{header}</tr>{"".join(rows)}</table></div><p>Energy and delay are those of the '
        f"best mappings by {_escaped(document['metric'])}; the mappings themselves are in "
        "<code>mappings/member_NNN/</code>, as Timeloop reads them.</p>"
    )


_PARTS = {
    "start": "loading and calibrating the network",
    "table": "cost table: all mappings of all layers for all widths",
    "sensitivities": "sensitivities of kernels and stored tensors",
    "accuracy": "accuracy of assignments",
    "hardware": "hardware cost of assignments (look-ups)",
    "nsga2": "NSGA-II itself",
    "checkpoints": "checkpoints",
    "test": "judging the front on test images",
    "retrain": "retraining the front",
}


def _times(document: dict[str, Any]) -> str:
    seconds = document["seconds"]
    total = sum(seconds.values()) or 1.0
    rows = "".join(
        f"<tr><td>{_escaped(_PARTS.get(name, name))}</td><td>{value:.1f} s</td><td>{value / total:.1%}</td></tr>"
        for name, value in seconds.items()
    )
    table = f'<div class="scroll"><table><tr><th>where the time went</th><th>time</th><th>share</th></tr>{rows}</table></div>'
    return table + "<p>A table found in the cache costs next to nothing; the first run on an accelerator makes it.</p>"
