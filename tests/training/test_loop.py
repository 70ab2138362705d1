"""A step is the same whether its batch is computed at once or in parts, and ends where it is told to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.training.learner import Evaluation
from decentral.training.loop import LocalTraining, check_schema, choose_device


class Plain(LocalTraining):
    """Cross-entropy, and nothing to evaluate."""

    def loss(self, images, batch):
        return functional.cross_entropy(self.model(images), self._labels[batch])

    def evaluate(self) -> Evaluation:
        return Evaluation(loss=None, accuracy=None, samples=0)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def plain(digits, images: int = 60, **settings) -> Plain:
    torch.manual_seed(0)
    return Plain(build_model("mlp", (1, 8, 8), 10, hidden=[8]), digits, np.arange(images), **settings)


def test_parts_of_a_batch_add_up_to_it(digits):
    whole, parts = plain(digits, batch_size=20), plain(digits, batch_size=20, accumulate=3)
    reports = [whole.train(1), parts.train(1)]
    assert reports[0].samples == reports[1].samples == 60 and reports[0].steps == reports[1].steps == 3
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-6)
    for name, tensor in whole.view().items():
        torch.testing.assert_close(parts.view()[name], tensor)


@pytest.mark.parametrize("settings", [{}, {"fresh_optimizer": False}, {"optimizer": "adam"}, {"precision": "float16"}])
def test_the_learning_rate_falls_from_round_to_round(digits, settings):
    falling = plain(digits, learning_rate=0.1, learning_rate_decay=0.5, batch_size=30, **settings)
    third = plain(digits, learning_rate=0.025, batch_size=30, **settings)
    first = plain(digits, learning_rate=0.1, batch_size=30, **settings)
    for learner in (falling, first):
        learner.train(1)
    for name, tensor in first.view().items():
        assert torch.equal(falling.view()[name], tensor), "the first round has it as it is"
    fresh = plain(digits, learning_rate=0.1, learning_rate_decay=0.5, batch_size=30, **settings)
    for learner in (fresh, third):
        learner.train(3)
    for name, tensor in third.view().items():
        assert torch.equal(fresh.view()[name], tensor)


def test_training_ends_between_batches_once_it_is_for_nothing(digits):
    asked = iter([False, False, True])
    assert plain(digits, batch_size=20).train(1, stop=lambda: next(asked)).steps == 2


def test_images_are_scaled_as_asked(digits):
    scaled = plain(digits, mean=(8.0,), std=(8.0,))
    pixels = torch.from_numpy(digits.train_images(np.arange(60))).float()
    assert torch.equal(scaled._images[:], pixels / 8 - 1)


def test_nobody_trains_on_nothing(digits):
    with pytest.raises(UserError, match="peer 2 has no training image"):
        plain(digits, images=0, peer=2)


def test_schemas_that_differ_are_told_apart_by_the_first_tensor():
    own = {"a": torch.zeros(2), "b": torch.zeros(2)}
    check_schema(own, {"a": torch.ones(2), "b": torch.ones(2)})
    for other, problem in [
        ({"a": torch.zeros(2)}, "'b' is missing"),
        ({**own, "c": torch.zeros(1)}, "'c' is not part"),
        ({**own, "b": torch.zeros(3)}, r"'b' is \[3\], not \[2\]"),
        ({**own, "b": torch.zeros(2, dtype=torch.float64)}, "'b' is torch.float64"),
    ]:
        with pytest.raises(ValueError, match=problem):
            check_schema(own, other)


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="this machine has"):
        choose_device(f"cuda:{torch.cuda.device_count()}")
