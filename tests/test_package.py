"""The project as a whole: the README's example, the public names, imports that flow one way, bench.

Guards: README.md, "From Python"; docs/ARCHITECTURE.md, "Architecture".
"""

from __future__ import annotations

import ast
import contextlib
import graphlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mqjax
from mqjax.cli import main

ROOT = Path(__file__).parent.parent

# What each folder (or module of the top level) may import, besides errors, types, progress and projection (inside functions,
# more is allowed).
ALLOWED = {
    "errors": set(),
    "progress": set(),
    "projection": set(),
    "types": set(),
    "arch": set(),
    "objectives": set(),
    "mapspace": {"arch"},
    "kept": {"io"},
    "cost": {"arch", "mapspace", "kept"},
    "io": {"arch", "cost", "mapspace"},
    "hw": {"arch", "io"},
    "mapper": {"arch", "cost", "io", "mapspace", "kept"},
    "models": {"io", "network"},
    "data": set(),
    "accuracy": {"data", "io", "models"},
    "network": {"arch", "mapper", "objectives"},
    "study": {"accuracy", "arch", "data", "hw", "io", "mapper", "mapspace", "models", "network", "objectives"},
    "show": {"accuracy", "arch", "cost", "io", "mapper", "mapspace", "network", "objectives", "study"},
    "export": {"accuracy", "io", "models", "study"},
    "benchmark": {"arch", "cost", "hw", "mapper", "mapspace", "models", "network", "study"},
    "commands": {"io", "objectives", "study"},
    "cli": {"io"},
}


def modules() -> dict[str, set[str]]:
    """Every module of the package, without "mqjax.", and the modules of the package that it imports at once."""
    found = {}
    for path in [*ROOT.glob("mqjax/**/*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("hw/**/*.py")]:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(part for part in (parts[1:] if parts[0] == "mqjax" else parts) if part != "__init__")
        imports = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mqjax":
                inside = node.module.removeprefix("mqjax").removeprefix(".")
                imports |= {".".join(filter(None, (inside, alias.name))) for alias in node.names}
        found[name] = imports
    # What is imported from a module is the module, if it is not one itself.
    return {
        name: {other if other in found else other.rpartition(".")[0] for other in imports}
        for name, imports in found.items()
    }


def test_folders_import_what_they_may():
    found = modules()
    assert len(found) > 60
    for name, imports in found.items():
        folder = name.split(".")[0]
        for other in imports if folder else ():
            above = other.split(".")[0]
            assert above in ALLOWED[folder] | {folder, "errors", "types", "progress", "projection"}, (
                f"{name} imports {other}"
            )


GUARDED = re.compile(r'([\w/]+\.md), ("[^;]+")')
"""A page, and the headings in it, each in quotation marks, that a module of tests guards."""


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_tests_name_what_they_guard(path):
    words = ast.get_docstring(ast.parse(path.read_text())) or ""
    guarded = GUARDED.findall(" ".join(words.rpartition("Guards: ")[2].split()))
    assert guarded, f"{path.name} does not say what it guards"
    for page, quoted in guarded:
        headings = [line.lstrip("# ") for line in (ROOT / page).read_text().splitlines() if line.startswith("#")]
        for heading in re.findall('"([^"]+)"', quoted):
            assert any(line.startswith(heading) for line in headings), f"{page} has no section {heading!r}"


def test_imports_have_no_cycles():
    graphlib.TopologicalSorter(modules()).prepare()  # raises CycleError otherwise


def readme_example() -> tuple[str, str]:
    """The Python block of the README, and the output that follows it."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    at = next(i for i, (language, _) in enumerate(blocks) if language == "python")
    return blocks[at][1], blocks[at + 1][1]


def test_readme_example_prints_what_it_says():
    code, wanted = readme_example()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().strip() == wanted.strip()


def test_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    named = re.search(r"The names to know: (.*?);", text, re.S)
    assert named is not None
    for name in re.findall(r"`(\w+)`", named[1]):
        assert callable(getattr(mqjax, name)) and name in mqjax.__all__
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), flags=re.M)
            assert anchor in [re.sub(r"[^\w ]", "", heading).lower().replace(" ", "-") for heading in headings], link


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="nothing"):
        print(mqjax.nothing)


def test_light_names_do_not_wait_for_jax():
    code = "import mqjax, sys; mqjax.load_arch('eyeriss'); mqjax.Layer(C=4); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_64_bit_stays_off_outside_the_evaluator(archs):
    import jax.numpy as jnp

    mqjax.best_mappings(archs["eyeriss"], mqjax.Layer(C=4, M=4), "native")
    assert jnp.arange(3.0).dtype == jnp.float32


def test_counts_beyond_exactness_are_refused(archs):
    with pytest.raises(mqjax.InputError, match="2\\^"):
        mqjax.best_mappings(archs["eyeriss"], mqjax.Layer(C=2**20, M=2**20, P=2**10, Q=2**10, name="vast"), "native")


def test_large_counts_stay_exact(archs):
    """Beyond float32's 2^24 and int32's 2^31: the oracle counts in Python's integers."""
    import oracle

    layer = mqjax.Layer(C=4096, M=4096, P=64, Q=64)
    best = mqjax.best_mappings(archs["simba"], layer, mqjax.BitWidths(3, 5, 7), metrics=("delay",))[0]["delay"]
    widths = {"Inputs": 3, "Weights": 5, "Outputs": 7}
    record = {"dims": layer.dims, "shape": "cnn", "bitwidths": widths, "mapping": best.mapping}
    found = oracle.evaluate(archs["simba"], record)
    assert layer.macs > 2**35
    assert (found["energy_pJ"], found["cycles"]) == (best.energy_pj, best.cycles)


def test_bench_writes_json(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", "--parts", "pricing,nsga2", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["pricing"]["genomes_per_s"] > 0 and result["device"]["kind"] and len(result["nsga2"]) == 2
    assert "genomes_per_s" in capsys.readouterr().out
    assert main(["bench", "--parts", "luck"]) == 2 and "luck" in capsys.readouterr().err


def test_devices_agree(archs):
    """On an accelerator the chosen mappings are those of the CPU; where there is none, this compares CPU with itself."""
    import jax

    layer = mqjax.Layer(C=32, M=24, R=3, S=3, P=6, Q=6)
    here = mqjax.best_mappings(archs["simba"], layer, mqjax.BitWidths(4, 3, 8), metrics=("energy", "edp", "delay"))
    with jax.default_device(jax.devices("cpu")[0]):
        there = mqjax.best_mappings(archs["simba"], layer, mqjax.BitWidths(4, 3, 8), metrics=("energy", "edp", "delay"))
    assert here == there
