"""What several test modules share."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mqjax.hw import load_arch

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests compile the same programs, in several processes: the first one compiles for all. Workers inherit this.
    _compiled = tempfile.TemporaryDirectory(prefix="mqjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
hypothesis.settings.register_profile("mqjax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("mqjax")

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> list[dict[str, Any]]:
    """Records of a sample of the reference data (see experiments/make_golden.py)."""
    with gzip.open(GOLDEN / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True, scope="module")
def not_too_many_programs():
    """A compiled program maps several pieces of memory, of which Linux allows a process 65,530. One process that ran all of these
    tests, and kept every program, ended in a segmentation fault while JAX loaded one more; this may have been why."""
    yield
    mapped = Path("/proc/self/maps")
    if mapped.exists() and mapped.read_text().count("\n") > 2**14:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def archs():
    """Shipped accelerators by name, 2024 dialect."""
    return {name: load_arch(name) for name in ("eyeriss", "simba")}


@pytest.fixture(scope="session")
def table(archs):
    """Costs of the layers of searching.py on Eyeriss."""
    from mqjax.mapper.table import cost_table
    from searching import LAYERS

    return cost_table(archs["eyeriss"], LAYERS)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The file of a small network with random weights."""
    from networks import drawn, tiny_graph

    from mqjax.models.onnx.writer import float_model

    path = tmp_path_factory.mktemp("networks") / "tiny.onnx"
    path.write_bytes(float_model(drawn(tiny_graph())).SerializeToString())
    return str(path)


@pytest.fixture(autouse=True)
def own_data(tmp_path_factory, monkeypatch):
    """No test sees tables or accuracies that a user keeps, nor the data set that may be installed."""
    monkeypatch.setenv("MQJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("mqjax.data.fashion_mnist.SYSTEM_FOLDER", Path("not installed"))
