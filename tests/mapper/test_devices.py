"""Tables do not depend on how many devices or processes compute them.

Guards: README.md, "What is exact, and what is a model".
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from mqjax.arch import Arch
from mqjax.hw import load_arch
from mqjax.mapper.table import cost_table, write_table
from mqjax.types import Layer

ARCH = Path(__file__).parent.parent / "golden" / "cases" / "array16x16.yaml"
"""Few levels, so that its programs compile fast: every device compiles its own."""

LAYERS = [
    Layer(C=8, M=32, R=3, S=3, P=14, Q=14, name="conv"),
    # Neighbours may forward data here, so that the exact evaluator covers the space.
    Layer(C=4, M=4, R=3, S=1, P=6, Q=3, name="forwarding"),
]


def written(arch: Arch, path: Path) -> str:
    write_table(path, cost_table(arch, LAYERS))
    return path.read_text()


SCRIPT = """
import sys
import jax
from pathlib import Path
from mqjax.mapper.hosts import join_hosts
sys.path.insert(0, {tests!r})
devices, count, index, port, path = (*map(int, sys.argv[1:5]), sys.argv[5])
if count > 1:
    join_hosts(f"localhost:{{port}}", count, index)
assert jax.local_device_count() == devices and jax.process_count() == count
from test_devices import ARCH, load_arch, written
written(load_arch(ARCH), Path(path))
"""


def start(devices: int, count: int, index: int, port: int, path: Path) -> subprocess.Popen[str]:
    usual = os.environ.get("XLA_FLAGS", "")
    flags = {"XLA_FLAGS": f"{usual} --xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, (devices, count, index, port, path))],
        env={**os.environ, **flags},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tables_do_not_depend_on_devices_or_processes(tmp_path):
    """One device in this process, three forced host devices, and two processes: the same table to the last bit."""
    expected = written(load_arch(ARCH), tmp_path / "here.json")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    runs = {
        "three": start(3, 1, 0, port, tmp_path / "three.json"),
        "first": start(1, 2, 0, port, tmp_path / "first.json"),
        "second": start(1, 2, 1, port, tmp_path / "second.json"),
    }
    for name, process in runs.items():
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, f"{name}: {errors[-2000:]}"
        assert (tmp_path / f"{name}.json").read_text() == expected, name
