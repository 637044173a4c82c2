"""What the report of a search shows.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import pytest

from mqjax.show.figures import _short


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["mobilenetv1_conv1", "mobilenetv1_dw1"], ["conv1", "dw1"]),
        (["resnet18_narrow_conv1", "resnet18_narrow_layer1_0_conv1"], ["conv1", "layer1_0_conv1"]),
        (["net_pw1", "net_pw2"], ["pw1", "pw2"]),
        (["hidden", "classes"], ["hidden", "classes"]),
        (["net_fc"], ["fc"]),
    ],
)
def test_labels_leave_out_the_networks_name(names, shown):
    assert _short(names) == shown
