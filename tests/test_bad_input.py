"""Bad input of every kind ends in one sentence (`InputError`), whatever is wrong with it."""

from __future__ import annotations

import pytest

from mqjax.commands._layers import parse_layer
from mqjax.errors import InputError
from mqjax.types import Layer


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
