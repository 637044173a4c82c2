"""Imported accelerators as tests look at them."""

from __future__ import annotations

from pathlib import Path

import yaml

from mqjax.arch import Arch
from mqjax.hw import load_arch
from mqjax.io.timeloop_arch import import_accelerator


def reread(folder: Path, name: str) -> Arch:
    """The import of Timeloop's files in a folder, written as a file of ours and read again."""
    result = import_accelerator(name, folder, folder)
    (folder / "mine.yaml").write_text(yaml.safe_dump(result.document, sort_keys=False))
    return load_arch(folder / "mine.yaml")


def said(rules):
    """Constraints, whatever their order."""
    return {(r.level, r.spatial, frozenset(r.factors), r.permutation, r.split) for r in rules}
