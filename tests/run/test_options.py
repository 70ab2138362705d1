"""The options of a name are those of its constructor, whether it was imported or its text was read."""

from __future__ import annotations

import pytest

from decentral.run.options import options_of
from decentral.run.serving_check import SERVICE
from decentral.serving.adversaries.catalogue import BEHAVIOURS
from decentral.training.catalogue import LEARNERS


@pytest.mark.parametrize("learner", ["diffusion", "classifier", "split"])
def test_options_are_the_same_once_a_learner_has_been_imported(learner: str) -> None:
    made = LEARNERS.resolve(learner)
    read, seen = options_of(f"{made.__module__}:{made.__name__}", 0), options_of(made, 0)
    assert read is not None and seen is not None and read.keys() == seen.keys()
    assert {name: option.required for name, option in read.items()} == {
        n: option.required for n, option in seen.items()
    }


@pytest.mark.parametrize("behaviour", BEHAVIOURS.names())
def test_options_are_the_same_once_a_behaviour_has_been_imported(behaviour: str) -> None:
    made = BEHAVIOURS.resolve(behaviour)
    assert options_of(f"{made.__module__}:{made.__name__}", SERVICE) == options_of(made, SERVICE)
