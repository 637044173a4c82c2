"""Sensitivities: what narrowing one tensor alone costs, by the judge's own quantization.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import numpy as np
import pytest
from recorder import Recorder

from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.sensitivity import Divergence, read_sensitivities, sensitivities
from mqjax.data import Images
from mqjax.errors import InputError
from mqjax.types import WIDTHS

IMAGES = 24


@pytest.fixture(scope="module")
def judge():
    return default_accuracy("mobilenetv1", num_images=IMAGES)


def test_errors_are_those_that_the_judge_finds(judge, tmp_path):
    seen, silence = Recorder(), Recorder()
    found = sensitivities(judge, loss="error", images=IMAGES, cache=tmp_path, progress=seen)
    wiring = judge.architecture.wiring()
    assert found.kernels.shape == (len(wiring.layers), 7) and found.tensors.shape == (len(wiring.tensors), 7)
    assert seen.done == 1 + 6 * wiring.genes
    assert (found.kernels[:, -1] == 0).all() and (found.tensors[:, -1] == 0).all()
    shown = judge.trained.images
    there = judge.on(Images(shown.images[:IMAGES], shown.labels[:IMAGES]))
    genomes = np.full((7, wiring.genes), WIDTHS[-1])
    genes = [(wiring.kernel_genes[n], found.kernels[n, 0]) for n in (0, 1, 20)]
    genes += [(wiring.tensor_genes[n], found.tensors[n, 0]) for n in (0, 2, 27)]
    for row, (gene, _) in enumerate(genes, start=1):
        genomes[row, gene] = WIDTHS[0]
    errors = 1 - there(genomes)
    wanted = np.maximum(errors[1:] - errors[0], 0)
    np.testing.assert_allclose([loss for _, loss in genes], wanted, atol=1e-12)
    assert wanted.max() > 0
    # What was measured is kept by content, and read back to the last digit.
    again = sensitivities(judge, loss="error", images=IMAGES, cache=tmp_path, progress=silence)
    assert not silence.advances and np.array_equal(again.kernels, found.kernels)


def test_bad_options_and_files_are_named(judge, tmp_path):
    with pytest.raises(InputError, match="divergence, error"):
        sensitivities(judge, loss="hope")
    with pytest.raises(InputError, match="at least 1"):
        sensitivities(judge, images=0)
    (tmp_path / "torn.json").write_text('{"kernels": [[1')
    with pytest.raises(InputError, match="torn.json"):
        read_sensitivities(tmp_path / "torn.json")


def test_divergence_of_one_narrow_gene_is_its_sensitivity(judge, tmp_path, monkeypatch):
    found, wiring = sensitivities(judge, images=IMAGES), judge.architecture.wiring()
    measure = Divergence(judge, images=IMAGES, cache=tmp_path)
    genomes = np.full((3, wiring.genes), WIDTHS[-1], np.int32)
    genomes[1, wiring.kernel_genes[3]] = genomes[2, wiring.tensor_genes[5]] = 3
    values = measure(genomes)
    assert values[0] > 0
    wanted = [found.kernels[3, 1], found.tensors[5, 1]]
    np.testing.assert_array_equal(np.maximum(values[1:] - values[0], 0), wanted)
    # Known values are read, not measured again; genomes by layer mean the same.
    monkeypatch.setattr("mqjax.accuracy.sensitivity._Losses", None)
    again = Divergence(judge, images=IMAGES, cache=tmp_path)
    np.testing.assert_array_equal(again(wiring.shaped(genomes)), values)
