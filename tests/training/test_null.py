"""The null learner keeps the laws of a learner, and claims nothing that it did not learn."""

from __future__ import annotations

import math

import pytest
import torch

from decentral.errors import UserError
from decentral.training.catalogue import LEARNERS
from decentral.training.null import NAME, NullLearner


def test_it_is_found_by_name() -> None:
    assert LEARNERS.resolve("null") is NullLearner


def test_it_counts_its_rounds_and_averages_like_any_other() -> None:
    one, other = NullLearner(0, 0), NullLearner(1, 0)
    assert [one.train(round).samples for round in (1, 2, 3)] == [500] * 3
    mean = (one.parameters()[NAME] + other.parameters()[NAME]) / 2
    other.load({NAME: mean})
    assert other.view()[NAME].tolist() == [1.5]
    assert one.view()[NAME].tolist() == [3.0]


def test_what_was_read_before_is_not_changed_by_training() -> None:
    learner = NullLearner(0, 0)
    before = learner.parameters()
    learner.train(1)
    assert before[NAME].tolist() == [0.0]


def test_it_reports_no_accuracy_and_no_loss() -> None:
    result = NullLearner(0, 0).evaluate()
    assert math.isnan(result.accuracy) and math.isnan(result.loss) and result.samples == 0
    assert math.isnan(NullLearner(0, 0).train(1).loss)


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(1)}, {NAME: torch.zeros(2)}])
def test_another_models_state_is_refused(state) -> None:
    with pytest.raises(ValueError, match=NAME):
        NullLearner(0, 0).load(state)


def test_it_has_no_optimiser_and_says_so() -> None:
    learner = NullLearner(0, 0)
    learner.load_optimizer(learner.optimizer_state())
    with pytest.raises(ValueError, match="optimiser"):
        learner.load_optimizer({"momentum": torch.zeros(1)})


@pytest.mark.parametrize("option", [{"samples": 0}, {"model_bytes": -1}])
def test_an_impossible_option_is_refused(option) -> None:
    with pytest.raises(UserError):
        NullLearner(0, 0, **option)


def test_training_that_is_for_nothing_changes_nothing() -> None:
    learner = NullLearner(0, 0)
    assert learner.train(1, stop=lambda: True).samples == 0
    assert learner.view()[NAME].tolist() == [0.0]
