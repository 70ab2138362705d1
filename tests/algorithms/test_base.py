"""The round that the synchronous algorithms share, and the mixing row when somebody is absent."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.algorithms.base import Schedule, finite, renormalise
from decentral.algorithms.dpsgd import DPSGD

ROWS = st.dictionaries(st.integers(1, 20), st.floats(0.01, 1.0), max_size=8).map(lambda others: {0: 0.5, **others})


@given(row=ROWS, data=st.data())
def test_a_renormalised_row_sums_to_one_keeps_proportions_and_goes_by_index(row, data):
    present = data.draw(st.sets(st.sampled_from(sorted(row))))
    weights = renormalise(row, present, own=0)
    assert set(weights) == present | {0}
    assert math.isclose(math.fsum(weights.values()), 1.0)
    assert list(weights) == sorted(weights)
    assert all(math.isclose(weights[i] * row[0], weights[0] * row[i]) for i in weights)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_is_finite_unless_any_number_is_not(value):
    state = {"weight": torch.zeros(3, 3), "steps": torch.tensor(2**62)}
    assert finite(state)
    state["weight"][1, 2] = value
    assert not finite(state)


def test_a_sum_that_overflows_is_not_taken_for_infinity():
    assert finite({"weight": torch.full((4,), 3e38)})


@given(rounds=st.integers(1, 40), every=st.integers(1, 50))
def test_the_last_round_is_always_evaluated_and_saved(rounds, every):
    schedule = Schedule(rounds=rounds, evaluate_every=every, checkpoint_every=every)
    assert schedule.evaluates(rounds) and schedule.saves(rounds)
    assert [r for r in range(1, rounds) if schedule.saves(r)] == [r for r in range(1, rounds) if r % every == 0]


def test_every_round_trains_once_and_is_saved_before_it_is_over(world):
    played = world(3, DPSGD, rounds=4).play()
    for index, learner in enumerate(played.learners):
        assert learner.trained == [1, 2, 3, 4]
        assert sorted(played.shelves[index].saved) == [1, 2, 3, 4]
        assert played.shelves[index].saved[4]["value"] == learner.value


def test_a_model_that_is_not_finite_is_rejected_and_the_others_are_averaged(world):
    async def script(stage):
        await asyncio.sleep(0.5)
        stage.learners[2].value = torch.tensor([math.nan], dtype=torch.float64)

    stage = world(5, DPSGD, rounds=1, step=0.0).play(script)
    assert [event["other"] for event in stage.journals[1].of("rejected")] == [2]
    assert stage.values[1] == pytest.approx((0 + 1) / 2)
    assert stage.values[4] == pytest.approx((0 + 3 + 4) / 3)
