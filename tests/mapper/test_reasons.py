"""Why nothing fits: counts against plain enumeration, and that the change which is named is enough and no less is.

Guards: docs/MODEL.md, "4. Validity".
"""

from __future__ import annotations

import collections
import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from mqjax.arch import Arch
from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.mapper import rejections
from mqjax.mapper.best import best_mappings
from mqjax.mapper.reasons import why_nothing_fits
from mqjax.mapper.rejections import Need, Reasons, find_reasons
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer
from random_accelerators import Case, draw

TALL = Layer(C=3, M=96, R=13, S=13, P=55, Q=55, name="tall")
KERNEL = Layer(C=64, M=64, R=3, S=3, P=56, Q=56, name="kernel")


def with_capacities(arch: Arch, **words: int) -> Arch:
    levels = [dataclasses.replace(x, capacity_words=words.get(x.name, x.capacity_words)) for x in arch.levels]
    return dataclasses.replace(arch, levels=tuple(levels))


def cramped(rng, size: int = 40) -> Case:
    """A random case, most of whose levels are too small."""
    case = draw(rng, size=size, widths=1)
    words = {level.name: rng.choice((1, 2, 3, 5, 9)) for level in case.arch.levels if rng.choice((True, True, False))}
    return case._replace(arch=with_capacities(case.arch, **words))


def grown(arch: Arch, change: tuple[Need, ...]) -> Arch:
    """The accelerator with what `change` asks for; a larger fan-out multiplies everything inside."""
    fanout = [list(xy) for xy in arch.fanout]
    for need in change:
        if need.what in ("X", "Y"):
            fanout[arch.level_names.index(need.level)]["XY".index(need.what)] = need.least
    meshes = [arch.levels[-1].mesh]
    for x, y in reversed(fanout):
        meshes.append((meshes[-1][0] * x, meshes[-1][1] * y))
    meshes.reverse()
    levels = [dataclasses.replace(x, mesh=mesh) for x, mesh in zip(arch.levels, meshes[1:], strict=True)]
    larger = dataclasses.replace(arch, mac=dataclasses.replace(arch.mac, mesh=meshes[0]), levels=tuple(levels))
    for need in change:
        if need.what == "use":
            share = need.available / math.prod(fanout[arch.level_names.index(need.level)])
            larger = dataclasses.replace(
                larger,
                **{
                    name: tuple(
                        dataclasses.replace(r, min_utilization=share)
                        if r.level == need.level and r.min_utilization
                        else r
                        for r in getattr(larger, name)
                    )
                    for name in ("arch_constraints", "paper_constraints")
                },
            )
    return with_capacities(larger, **{need.level: need.least for need in change if need.what == "words"})


def failures(arch: Arch, layer: Layer, constraints: str, bits: BitWidths):
    """Of each mapping of the pruned space the stage and the levels that reject it, None where it fits."""
    widths = {"Inputs": bits.inputs, "Weights": bits.weights, "Outputs": bits.outputs}
    space = oracle.Space(arch, layer, constraints)
    for mapping in space.mappings():
        record = {"dims": layer.dims, "shape": layer.shape, "bitwidths": widths, "mapping": mapping}
        found = oracle.evaluate(arch, record)
        if underused := space.underused(mapping):
            wide = found["levels"] if not found["valid"] and found["stage"] == "construct" else []
            yield "construct", [level for level in arch.level_names if level in (*underused, *wide)]
            continue
        yield None if found["valid"] else (found["stage"], found["levels"])


def enumerated(arch: Arch, layer: Layer, constraints: str, bits: BitWidths):
    """Mappings of the pruned space by where they fail: (all, those that fit the array, those that fit, rejections by
    level of the fan-outs and of the capacities)."""
    size, fitting, valid = 0, 0, 0
    failed = {"construct": collections.Counter(), "pre_evaluation": collections.Counter()}
    for failure in failures(arch, layer, constraints, bits):
        size += 1
        valid += failure is None
        fitting += failure is None or failure[0] != "construct"
        if failure is not None:
            failed[failure[0]].update(failure[1])
    return size, fitting, valid, failed


def check(case: Case) -> Reasons | None:
    """Compare with enumeration; what was found where nothing fits."""
    arch, layer, bits = case.arch, case.layers[0], case.bits[-1]
    if arch.too_wide(bits):
        return None
    size, fitting, valid, failed = enumerated(arch, layer, case.constraints, bits)
    found = find_reasons(Mapspace(arch, layer, constraints=case.constraints), bits)
    assert (found.size, found.fitting, found.sampled) == (size, fitting, False)
    stage = failed["pre_evaluation" if fitting else "construct"]
    assert {r.level: r.rejected for r in found.rejections} == stage
    assert all(r.of == (fitting or size) for r in found.rejections)
    assert (found.change == ()) == (valid > 0)
    if valid:
        return None

    def admits(change: tuple[Need, ...]) -> bool:
        return None in failures(grown(arch, change), layer, case.constraints, bits)

    if oracle.Space(grown(arch, found.change), layer, case.constraints).pruned_size(1000) > 1000:
        return found  # a second axis of an array frees the order of its loops
    assert admits(found.change)
    for i, need in enumerate(found.change):
        less = (
            need._replace(available=need.available + 1) if need.what == "use" else need._replace(least=need.least - 1)
        )
        assert less.least >= less.available
        assert not admits((*found.change[:i], less, *found.change[i + 1 :]))
    return found


@given(st.randoms(use_true_random=False))
def test_counts_and_changes_are_those_of_enumeration(rng):
    check(cramped(rng))


def test_every_kind_of_reason_is_met():
    found = [check(cramped(random.Random(seed), 40)) for seed in range(80)]
    found = [x for x in found if x is not None]
    assert sum(x.fitting == 0 for x in found) > 5
    assert sum(x.fitting > 0 for x in found) > 20
    assert sum(len(x.change) > 1 for x in found) > 5
    assert sum(any(r.rejected < r.of for r in x.rejections) for x in found) > 5
    assert {"X", "use"} <= {need.what for x in found for need in x.change}


def test_least_needs_are_those_of_all_mappings():
    """A level with the least capacity that it is said to need rejects fewer, with one word less none fewer."""
    tried = 0
    for seed in range(40):
        case = cramped(random.Random(seed), 40)
        arch, layer, bits = case.arch, case.layers[0], case.bits[-1]
        found = None if arch.too_wide(bits) else find_reasons(Mapspace(arch, layer, constraints=case.constraints), bits)
        for r in found.rejections if found is not None and found.fitting else ():
            (need,) = r.needs
            if not need.exceeds:
                assert r.rejected < r.of
                continue
            tried += 1
            assert r.rejected == r.of
            for words, fewer in ((need.least, True), (need.least - 1, False)):
                larger = with_capacities(arch, **{r.level: words})
                failed = enumerated(larger, layer, case.constraints, bits)[3]["pre_evaluation"]
                assert (failed[r.level] < r.of) == fewer
    assert tried > 10


def test_a_kernel_that_must_lie_on_the_array_whole(archs, capsys):
    assert main(["map", "--arch", "eyeriss", "--layer", "C=3,M=96,R=13,S=13,P=55,Q=55"]) == 2
    message = capsys.readouterr().err
    assert "all exceed the fan-out of DummyBuffer (at least 13 instances along Y where it has 12" in message
    assert "S=13 must lie there whole" in message and "of 10,080 mappings" in message
    change = find_reasons(Mapspace(archs["eyeriss"], TALL), BitWidths()).change
    assert change == (Need("DummyBuffer", "Y", 13, 12), Need("ifmap_spad", "words", 13, 12))
    assert best_mappings(grown(archs["eyeriss"], change), TALL, BitWidths())[0]["energy"].covered


def test_words_depend_on_the_widths(archs):
    for bits, words in ((BitWidths(), 500), (BitWidths(8, 8, 8), 250), (BitWidths(8, 4, 8), 125)):
        space = Mapspace(archs["eyeriss"], Layer(R=500), constraints="arch")
        found = {r.level: r.needs for r in find_reasons(space, bits).rejections}
        needed = (Need("weights_spad", "words", words, 224),) if words > 224 else None
        assert found.get("weights_spad") == needed
    with pytest.raises(
        InputError, match=r"constraints 'paper': of 1 mapping, 1 fit the array; of these, all exceed weights"
    ):
        best_mappings(archs["eyeriss"], Layer(R=500), BitWidths(8, 8, 8))


def test_widths_above_a_word(archs):
    reason = why_nothing_fits(Mapspace(archs["eyeriss"], KERNEL), BitWidths(17, 8, 8))
    assert reason == "17 bits do not fit the 16-bit words of ifmap_spad"


@pytest.mark.parametrize("looked_at", ["all", "fitting", "sample"])
def test_larger_spaces(archs, monkeypatch, looked_at):
    """All factorisations, those that fit the fan-outs, and a sample tell of the same level and the same change."""
    layer = dataclasses.replace(KERNEL, P=4, Q=4)
    arch = with_capacities(archs["simba"], GlobalBuffer=5)
    space = Mapspace(arch, layer)
    rows = math.prod(len(group.weight) for group in space.groups)
    assert rows < math.prod(map(len, space.tables))
    if looked_at != "all":
        monkeypatch.setattr(rejections, "EXACT_MOST", rows if looked_at == "fitting" else rows - 1)
    found = find_reasons(space, BitWidths(8, 8, 8))
    if looked_at != "sample":
        assert (found.size, found.fitting, found.sampled) == (space.pruned_size, space.fanout_valid, False)
    else:
        assert found.sampled and found.size == rejections.SAMPLE
    assert found.change == (Need("GlobalBuffer", "words", 20, 5),)


def test_too_large_spaces_are_sampled(archs):
    space = Mapspace(with_capacities(archs["simba"], PEWeightRegs=0), KERNEL, constraints="none")
    assert space.too_large
    reason = why_nothing_fits(space, BitWidths(8, 8, 8))
    assert (
        "like every mapping of the space, all exceed PEWeightRegs (at least 1 word at 8/8/8 bits where it has 0)"
        in reason
    )
    assert "tilings sampled" in reason and reason.endswith("; PEWeightRegs with 1 word would admit one")
    fits = find_reasons(Mapspace(archs["simba"], KERNEL, constraints="none"), BitWidths(8, 8, 8))
    assert fits.sampled and fits.change == ()
