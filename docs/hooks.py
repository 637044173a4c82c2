"""For the site: figures of experiments/results/ come along, and other links out of docs/ become paths, since the site does
not hold what they lead to."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "experiments" / "results"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by mkdocs with the files of the site."""
    for path in sorted(RESULTS.glob("*/*.png")):
        files.append(File.generated(config, f"results/{path.parent.name}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    text = re.sub(r"(!\[[^\]]*\]\()\.\./experiments/(results/[^)\s]+\.png\))", r"\1\2", markdown)
    text = re.sub(r"!\[([^\]]*)\]\(\.\./([^)\s]+)\)", r"\1: `\2`", text)
    text = re.sub(r"\[`?([^\]`]*)`?\]\(\.\./\1\)", r"`\1`", text)
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)\s]+)\)", r"\1 (`\2`)", text)


def on_page_content(html: str, **_: object) -> str:
    """Called with the HTML of each page: sources are named by where they are in the package, not in the folder of the build."""
    return html.replace("build/typed/", "")
