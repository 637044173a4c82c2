"""Which mapspaces hold mappings that the fast path does not price: a test on the space, which may only err by saying yes.

Two things are outside the fast path (`mqjax.cost.fast.terms`). Multicast groups are no product of bounds where both dimensions of a
rank of Inputs (R with P, S with Q) are spatial at one level. And spatial neighbours may forward data to each other where a
step of the temporal loops moves Inputs as far as the data of two children lie apart (MODEL.md section 6). Other tensors
never forward: a step along the only dimension of a rank jumps over all that is inside it, spatial loops included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqjax.projection import SLIDING_DIMS

if TYPE_CHECKING:
    from mqjax.mapspace.space import Mapspace


def may_forward(space: Mapspace) -> bool:
    """Whether some mapping of the space may be outside the fast path."""
    spatial = [t for t, level in enumerate(space.tiling) if level.spatial]
    for pair in SLIDING_DIMS:
        if any(space.layer.bounds[d] == 1 for d in pair):
            continue
        first, second = pair
        for t in spatial:
            here = set(space.movable(t))
            if {first, second} <= here:
                return True
            if not here or space.tiling[t].level == 0:
                continue  # what feeds the MACs never waits for a neighbour
            outside = [u for u in range(t + 1, len(space.tiling)) if not space.tiling[u].spatial]
            moving = {d for u in outside for d in space.movable(u)}
            # Children that differ in one dimension may be met by steps along the other; steps along both may cancel.
            met = [d for d, other in (pair, pair[::-1]) if other in here and d in moving]
            cancel = {first, second} <= moving and not any(_shielded(space, outside, d, pair) for d in pair)
            if cancel or any(not _shielded(space, outside, d, pair) for d in met):
                return True
    return False


def _shielded(space: Mapspace, outside: list[int], d: int, pair: tuple[int, ...]) -> bool:
    """Whether a loop that every mapping has stands inside all outside loops of dimension d of the pair and rules
    forwarding out: one of another rank, since steps further out then also move that rank back, where the children do not
    differ; or one that moves nothing of Inputs (M) as the innermost, since then the first step moves nothing.

    If the children do differ in the other rank of Inputs, so that its own steps meet them, its own test says so.
    """
    sharing = {d for both in SLIDING_DIMS for d in both}
    moving = space.relevant("Inputs")
    innermost = True
    for u in outside:
        fixed = [e for e in space.prefix(u) if e in space.movable(u)]
        free = [e for e in space.free_dims(u) if e in space.movable(u)]
        # Free loops stand in any order: they shield only if no loop of d is among them.
        for together in (*((e,) for e in fixed), tuple(free)):
            if d in together:
                return False
            always = {e for e in together if space.tables[e][:, u].min() > 1}
            if (always & moving) - set(pair) or (always - moving and innermost):
                return True
            innermost = innermost and not sharing & set(together)
    return True
