"""The documentation: every page is in the site, every name of the reference exists, links lead somewhere.

Guards: docs/API.md, "From Python".
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_every_page_is_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().split("nav:")[1].split("markdown_extensions:")[0]
    assert sorted(re.findall(r": (\S+\.md)", nav)) == [page.name for page in PAGES]


def test_names_of_the_reference_exist():
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "API.md").read_text(), re.M)
    assert len(names) > 20
    for name in names:
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            found = getattr(importlib.import_module(module), attribute)
        assert found.__doc__, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!https?:)[^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_read_alike_by_all(page):
    """Python-Markdown wants empty lines before lists and tables, and takes stars between letters for italics."""
    before = ""
    for line in re.sub(r"```.*?```|^    .*?$", "", page.read_text(), flags=re.S | re.M).splitlines():
        begins = re.match(r"([*-]|\d+\.) ", line) and not re.match(r"\s*([*-]|\d+\.) |  ", before)
        begins = begins or (line.startswith("|") != before.startswith("|") and line)
        assert not (begins and before), f"no empty line before: {line}"
        plain = re.sub(r"`[^`]*`|\*\*[^*]+\*\*", "", line)
        assert not re.search(r"[\w)\]]\*[\w(\[]", plain), f"a star between letters: {line}"
        before = line


def test_the_layers_that_the_docs_show_are_read(tmp_path):
    from mqjax.models import network_layers

    text = (ROOT / "docs" / "OWN_NETWORK.md").read_text()
    blocks = [block for _, block in re.findall(r"```(\w*)\n(.*?)```", text, re.S)]
    for begin, suffix, count in (("layers:", ".yaml", 3), ("name,", ".csv", 1)):
        block = next(block for block in blocks if block.startswith(begin))
        (tmp_path / f"net{suffix}").write_text(block)
        assert len(network_layers(str(tmp_path / f"net{suffix}"))) == count
