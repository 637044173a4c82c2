"""Which bounds of a layer are tried.

Guards: README.md, "What is exact, and what is a model".
"""

from __future__ import annotations

import numpy as np

from mqjax.mapper.best import paper_bounds, solve_layer
from mqjax.mapspace.padding import mapped_as
from mqjax.types import BitWidths, Layer

BITS = [BitWidths(8, 8, 8), BitWidths()]


def test_fewer_constraints_never_cost_more(archs):
    """Simba takes outputs by fours under the paper's constraints: ten are padded to twelve, which costs less than the factors
    of ten, too."""
    layer = Layer(C=256, M=10, name="classes")
    assert [mapped_as(layer, larger) for larger in paper_bounds(archs["simba"], layer, "arch")] == [{"M": 12}]
    paper, arch = (solve_layer(archs["simba"], layer, BITS, constraints=name) for name in ("paper", "arch"))
    alone = solve_layer(archs["simba"], layer, BITS, constraints="arch", pad=None)
    assert arch.covered
    assert (arch.values() <= np.minimum(paper.values(), alone.values())).all()
    assert (arch.values() < alone.values()).any()


def test_no_other_bounds_where_the_paper_needs_none(archs):
    assert paper_bounds(archs["simba"], Layer(C=256, M=12), "arch") == []
    assert paper_bounds(archs["simba"], Layer(C=256, M=10), "paper") == []
