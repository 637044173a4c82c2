"""For the site: links to files of the repository outside docs/ become their paths, since the site does not hold them."""

from __future__ import annotations

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    text = re.sub(r"!\[([^\]]*)\]\(\.\./([^)\s]+)\)", r"\1: `\2`", markdown)
    text = re.sub(r"\[`?([^\]`]*)`?\]\(\.\./\1\)", r"`\1`", text)
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)\s]+)\)", r"\1 (`\2`)", text)


def on_page_content(html: str, **_: object) -> str:
    """Called with the HTML of each page: sources are named by where they are in the package, not in the folder of the build."""
    return html.replace("build/typed/", "")
