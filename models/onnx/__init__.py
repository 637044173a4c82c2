"""Networks as ONNX files: `file` reads one safely, `reader` makes its graph, `writer` writes one."""

from __future__ import annotations

import re
from pathlib import Path

from mqjax.models.networks import NETWORKS


def called(path: Path) -> str:
    """The name of the network in a file: the file's, and never that of one of ours, which it need not be."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", path.stem).strip("_")[:40] or "network"
    return f"{name}_onnx" if name in NETWORKS else name
