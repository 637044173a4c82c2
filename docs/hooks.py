"""For the site: links to files of the repository outside docs/ become their paths, since the site does not hold them."""

from __future__ import annotations

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    text = re.sub(r"!\[([^\]]*)\]\(\.\./([^)\s]+)\)", r"\1: `\2`", markdown)
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)\s]+)\)", r"\1 (`\2`)", text)
