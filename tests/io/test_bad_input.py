"""Bad input of every kind ends in one sentence (`InputError`), whatever is wrong with it.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mqjax.commands._layers import parse_layer
from mqjax.errors import InputError
from mqjax.hw import FOLDER, load_arch
from mqjax.io.timeloop import read_mapping
from mqjax.types import DIMS, Layer


@pytest.mark.parametrize("text", ["C=3,M=8,Wstride=2", " C = 3 , M = 8, Wstride=2 ", "c=3,m=08,wSTRIDE=2"])
def test_layers_in_other_spellings(text):
    assert parse_layer(text, "cnn") == Layer(C=3, M=8, Wstride=2)


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "C=4,", "C=4,,M=2", "C", "C=", "=4", "C=0", "C=-4", "C=+4", "C=4.0", "C=1e3", "C=1_000", "C=\u0664",
     "C=4;M=2", "C=4,c=3", "C=4,C=4", "K=4", "C=\n", "C=1" + "0" * 18, "C=" + "9" * 5000, "C\0=4", "C=4\udcff"],
)  # fmt: skip
def test_bad_layers_are_one_sentence(text):
    with pytest.raises(InputError) as caught:
        parse_layer(text, "cnn")
    message = str(caught.value)
    assert message.startswith("--layer: ") and message.isprintable() and len(message) < 200


def test_a_depthwise_layer_has_no_output_channels():
    with pytest.raises(InputError, match="M=1"):
        parse_layer("C=4,M=2", "depthwise")


# --- Accelerator files with one thing wrong ---------------------------------------------------------------------------

TEXT = (FOLDER / "eyeriss.yaml").read_text()

ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, -1, 2**53, 2**63, 10**400, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["full", "unlimited", "Weights", "C", "DRAM", "Y", "on", "1e3", "0x10", "spatial", "NCPQRSM"]),
    st.lists(st.integers(-2, 20) | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3) | st.integers(0, 3), st.integers(-2, 3), max_size=2),
)


def places(value, path=()):
    """Paths of keys and indices to everything in a document."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


DOCUMENT = yaml.safe_load(TEXT)
PLACES = [path for path in places(DOCUMENT) if path]


def read(path: Path, content: bytes) -> str:
    """The sentence that refuses a file with this content, or "" where it is accepted. Nothing else may be raised."""
    path.write_bytes(content)
    try:
        arch = load_arch(path)
    except InputError as error:
        message = str(error)
        assert str(path) in message and message.isprintable() and len(message) < 600, message
        return message
    # What is accepted can be used: the arrays of the evaluator and the levels of the mapspace can be made.
    assert np.isfinite(arch.tech.energy).all() and np.isfinite(arch.area_um2)
    assert len(arch.tiling_levels()) >= len(arch.levels)
    return ""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("bad") / "mine.yaml"


def parent_of(document, place):
    for key in place[:-1]:
        document = document[key]
    return document


@settings(max_examples=120)
@given(place=st.sampled_from(PLACES), value=ODD_VALUES)
def test_odd_values(path, place, value):
    document = copy.deepcopy(DOCUMENT)
    parent_of(document, place)[place[-1]] = value
    read(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode("utf-8", "replace"))


@settings(max_examples=60)
@given(place=st.sampled_from(PLACES), key=st.text(max_size=5) | st.integers(0, 9) | st.booleans(), value=ODD_VALUES)
def test_extra_keys(path, place, key, value):
    document = copy.deepcopy(DOCUMENT)
    parent = parent_of(document, place)
    # A key that is there already has a meaning; `split` may be added, and a factor of a dimension that is free.
    if not isinstance(parent, dict) or key in parent or key in DIMS:
        return
    parent[key] = value
    assert read(path, yaml.safe_dump(document, sort_keys=False).encode("utf-8", "replace"))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_missing_keys(path, place):
    document = copy.deepcopy(DOCUMENT)
    del parent_of(document, place)[place[-1]]
    message = read(path, yaml.safe_dump(document, sort_keys=False).encode())
    required = {"name", "mac", "levels", "mesh", "energy_pj", "capacity_words", "word_bits", "block_words", "keep", "read",
                "fill", "update", "level", "type"}  # fmt: skip
    if place[-1] in required and "bandwidth" not in place:
        assert f"{place[-1]}: this key is missing" in message


@settings(max_examples=80)
@given(start=st.integers(0, len(TEXT)), stop=st.integers(0, len(TEXT)), between=st.binary(max_size=6))
def test_truncated_and_torn_files(path, start, stop, between):
    content = TEXT.encode()
    read(path, content[: min(start, stop)] + between + content[max(start, stop) :])
    read(path, content[:start])


@settings(max_examples=60)
@given(at=st.integers(0, len(TEXT)), between=st.text("[]{}:,-&*!|>'\"%@`#?~<\t\n\r .eE0x_", min_size=1, max_size=4))
def test_stray_punctuation(path, at, between):
    read(path, (TEXT[:at] + between + TEXT[at:]).encode())


@settings(max_examples=50)
@given(content=st.binary(max_size=200))
def test_any_bytes(path, content):
    assert read(path, content)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "cp037"])
def test_other_encodings_without_a_mark(path, encoding):
    assert ", line 1: " in read(path, TEXT.encode(encoding))


@pytest.mark.parametrize(
    "text",
    ["", "mapping", "mapping: 1", "mapping: [1]", "mapping: [{target: L9, type: temporal}]", "mapping: [{target: DRAM}]",
     "mapping: [{target: DRAM, type: temporal, factors: 7, permutation: C}]", "mapping: [", "mapping: 1\nmapping: 2",
     "mapping: [{target: DRAM, type: temporal, factors: C=x, permutation: C}]"],
)  # fmt: skip
def test_bad_map_files(path, text):
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_mapping(path, ["DRAM"])
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
