"""Children that forward data to each other (MODEL.md section 6, link transfers).

Only Inputs can be forwarded. A step of a loop moves a tensor's data by D_j; a neighbour has them already if it lies D_j
away. In a rank along which one dimension moves, every D_j is a multiple of what all children cover together, so that
it must be 0; and where it is 0 in all ranks of a tensor without pairs of dimensions, the step delivers nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mqjax.cost.exact import children, nest
from mqjax.cost.exact.children import Fans, Groups
from mqjax.cost.exact.multicast import Entries, Signatures, counted, merged, number_of_groups
from mqjax.mapspace.mapping import Mappings


class Forwarded(NamedTuple):
    """Steps in which neighbours forward Inputs; axis N."""

    row: np.ndarray  # int64 [N] mapping
    level: np.ndarray  # int64 [N]
    amount: np.ndarray  # int64 [N] elements that each child gets over the whole run
    fans: Fans  # [N]
    move: np.ndarray  # int64 [N] D_j as a key
    receivers: np.ndarray  # int64 [N] children that are served by a neighbour
    groups: Groups  # of the children that are not

    def select(self, rows: np.ndarray) -> Forwarded:
        """What happens in `rows`, ascending, which are then numbered from 0."""
        at = np.flatnonzero(np.isin(self.row, rows))
        place = np.full(len(self.row), -1)
        place[at] = np.arange(len(at))
        kept = place[self.groups.fan] >= 0
        groups = Groups(*(x[kept] for x in self.groups))
        return Forwarded(
            row=np.searchsorted(rows, self.row[at]),
            level=self.level[at],
            amount=self.amount[at],
            fans=self.fans.take(at),
            move=self.move[at],
            receivers=self.receivers[at],
            groups=groups._replace(fan=place[groups.fan]),
        )


def forwarded(
    problem: nest.Problem, mappings: Mappings, analysis: nest.Analysis, fits: np.ndarray, fanout: np.ndarray
) -> Forwarded:
    """What neighbours forward in the mappings that fit, bool [B]. `problem` has a leading axis B."""
    row, level, loop = np.nonzero(analysis.times * fits[:, None, None])
    keys, at = problem.keys[row, nest.INPUTS], (row, level)
    fans = children.fans(level, keys, mappings.spatial_dim[at], mappings.spatial_bound[at], analysis.inside[at])
    move = analysis.jump[row, loop] + analysis.base[at]
    amount = analysis.times[row, level, loop] * analysis.fresh[at]
    first, which = children.distinct_fans(fans, move)
    cases, moves = fans.take(first), move[first]
    usual = number_of_groups(problem.coefficients[row[first]], analysis.spatial[at][first], analysis.inside[at][first])
    receivers, left = np.zeros(len(first), np.int64), np.zeros(len(first), np.int64)
    parts = [Groups.none()]
    for number, some in children.slices(cases):
        key = children.positions(cases.take(some))
        served = receiving(key, cases.sizes[some], moves[some], int(fanout[number, 0]))
        receivers[some] = served.sum(axis=1)
        helped = np.flatnonzero(receivers[some])
        if len(helped):
            exists = np.arange(key.shape[1]) < cases.sizes[some[helped], None]
            groups = children.grouped(key[helped], exists & ~served[helped])
            parts.append(groups._replace(fan=some[helped][groups.fan]))
    groups = Groups.join(parts)
    np.add.at(left, groups.fan, groups.scatter)
    # The reference forwards only where the parent then has less to do.
    used = np.flatnonzero(((receivers > 0) & (left < usual))[which])
    return Forwarded(
        row=row[used],
        level=level[used],
        amount=amount[used],
        fans=fans.take(used),
        move=move[used],
        receivers=receivers[which[used]],
        groups=_each(groups, which[used], len(first)),
    )


def receiving(key: np.ndarray, sizes: np.ndarray, move: np.ndarray, width: int) -> np.ndarray:
    """bool [N, E] children whose next data, `move` [N] away, a neighbour on a grid of `width` columns has already.

    key: int64 [N, E] where their data lie now; sizes: [N] number of children.
    """
    elements = key.shape[1]
    element = np.arange(elements)
    served = np.zeros(key.shape, bool)
    for distance, beside in ((1, element[:-1] % width != width - 1), (width, np.ones(max(0, elements - width), bool))):
        if distance >= elements:
            continue
        low, high = slice(None, -distance), slice(distance, None)
        # Both have a child where the later one has.
        both = beside & (element[high] < sizes[:, None])
        apart = key[:, high] - key[:, low]
        served[:, low] |= both & (apart == move[:, None])
        served[:, high] |= both & (-apart == move[:, None])
    return served


def _each(groups: Groups, which: np.ndarray, cases: int) -> Groups:
    """The groups of fan-outs that each equal one of `cases`: number `which`, int64 [N]."""
    count = np.bincount(groups.fan, minlength=cases)
    order = np.argsort(groups.fan, kind="stable")
    first = np.cumsum(count) - count
    repeats = count[which]
    fan = np.repeat(np.arange(len(which)), repeats)
    place = np.arange(len(fan)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    at = order[first[which][fan] + place]
    return Groups(fan, *(x[at] for x in groups[1:]))


def signatures(
    coefficients: np.ndarray, analysis: nest.Analysis, overlapping: np.ndarray, moved: Forwarded | None
) -> tuple[Signatures, np.ndarray]:
    """Signatures of any mappings, and elements handed from neighbour to neighbour, int64 [B, L, T].

    coefficients: [B, T, R, D]; overlapping: bool [B, L], levels whose groups of Inputs are of several sizes.
    """
    shape = analysis.delta.shape
    usual, links = analysis.delta.copy(), np.zeros(shape, np.int64)  # deliveries without forwarding
    if moved is not None:
        np.subtract.at(usual[..., nest.INPUTS], (moved.row, moved.level), moved.amount)
        np.add.at(links[..., nest.INPUTS], (moved.row, moved.level), moved.amount * moved.receivers)
    one_size = np.ones(shape, bool)
    one_size[..., nest.INPUTS] = ~overlapping
    cell = np.flatnonzero(one_size)
    scatter = analysis.scatter[one_size]
    multicast = np.repeat(analysis.fan[..., None], shape[2], axis=2)[one_size] // scatter
    parts = [Entries(cell, multicast, scatter, scatter * usual[one_size])]
    at = np.nonzero(overlapping)
    if len(at[0]):
        fan, multicast, scatter = counted(coefficients[at[0]], analysis.spatial[at], analysis.inside[at])
        where = (at[0][fan], at[1][fan], np.full(len(fan), nest.INPUTS))
        parts.append(Entries(np.ravel_multi_index(where, shape), multicast, scatter, scatter * usual[where]))
    if moved is not None:
        fan, multicast, scatter, _ = moved.groups
        where = (moved.row[fan], moved.level[fan], np.full(len(fan), nest.INPUTS))
        parts.append(Entries(np.ravel_multi_index(where, shape), multicast, scatter, scatter * moved.amount[fan]))
    return merged(Entries(*(np.concatenate(x) for x in zip(*parts, strict=True))), shape), links
