"""What chapters compute with, on other numbers than theirs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.chapters.recommenders import chances
from experiments.chapters.seeing_transfer import few_shot_accuracy
from experiments.published import MODELS, parameters


@pytest.mark.parametrize("classes", [2, 4, 6])
def test_a_few_examples_tell_any_number_of_classes_apart(classes):
    y = jnp.arange(20 * classes) % classes
    x = 10 * jax.nn.one_hot(y, classes)
    assert few_shot_accuracy(x, y, shots=2) == 1
    assert few_shot_accuracy(jnp.ones_like(x), y, shots=2) < 0.6  # control


def test_a_surfer_without_links_goes_anywhere():
    chance = chances([(0, 1), (0, 2), (1, 0)], 3, damping=0.85)
    np.testing.assert_allclose(chance.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(chance[:, 2], 1 / 3, rtol=1e-6)


def test_bert_has_its_published_size():
    bert = MODELS["bert-large"]
    pooler = bert.width * (bert.width + 1)
    assert parameters(bert) + pooler == 335_141_888  # of the released weights
    assert parameters(replace(bert, segments=0)) + pooler != 335_141_888  # control
