"""The round that the synchronous algorithms share, and the mixing row when somebody is absent."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.algorithms.base import Pace, Schedule, renormalise, train
from decentral.algorithms.dpsgd import DPSGD
from decentral.algorithms.fedavg import FedAvg
from decentral.algorithms.gossip import Gossip
from decentral.core.rules import Krum, Median, NormClipping
from decentral.wire.clock import WallClock

ROWS = st.dictionaries(st.integers(1, 20), st.floats(0.01, 1.0), max_size=8).map(lambda others: {0: 0.5, **others})


@given(row=ROWS, data=st.data())
def test_a_renormalised_row_sums_to_one_keeps_proportions_and_goes_by_index(row, data):
    present = data.draw(st.sets(st.sampled_from(sorted(row))))
    weights = renormalise(row, present, own=0)
    assert set(weights) == present | {0}
    assert math.isclose(math.fsum(weights.values()), 1.0)
    assert list(weights) == sorted(weights)
    assert all(math.isclose(weights[i] * row[0], weights[0] * row[i]) for i in weights)


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


# ---- averaging by another rule than the mean ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [DPSGD, FedAvg])
def test_a_robust_rule_keeps_the_peers_in_the_range_of_the_others(world, algorithm):
    """Peer 4 of 5 is told to be a million away; the median of all is what the middle one has."""
    stage = world(5, algorithm, topology_name="full", rounds=1, step=0.0, rule=Median())
    stage.learners[4].value += 1e6
    assert stage.play().values == [2.0] * 5
    mean = world(5, algorithm, topology_name="full", rounds=1, step=0.0)
    mean.learners[4].value += 1e6
    assert min(mean.play().values) > 1e5


def test_the_journal_says_whom_a_rule_left_out(world):
    played = world(5, DPSGD, topology_name="full", rounds=1, step=0.0, rule=Krum(1)).play()
    [merged] = played.journals[0].of("merged")
    [chosen] = [index for index, weight in merged["weights"].items() if weight]
    assert merged["left_out"] == {index: 1.0 for index in range(5) if index != chosen}
    assert "left_out" not in world(3, DPSGD, rounds=1).play().journals[0].of("merged")[0]


def test_clipping_is_around_the_peers_own_model(world):
    stage = world(2, Gossip, topology_name="full", rounds=1, step=0.0, rule=NormClipping(bound=0.5))
    stage.learners[1].value += 99.0
    assert stage.play().values == [0.25, 99.75]


@pytest.mark.parametrize("algorithm", [DPSGD, FedAvg])
def test_a_peer_stays_as_it_is_where_there_are_too_few_models_to_find_out_who_lies(world, algorithm):
    async def script(stage):
        await asyncio.sleep(1.5)
        await stage.crash(2)
        del stage.tasks[2]

    played = world(3, algorithm, topology_name="full", rounds=4, rule=Median()).play(script)
    last = played.journals[0].of("merged")[-1]
    assert last["weights"] == {0: 1.0, 1: 0.0} and last["left_out"] == {1: 1.0}
    assert [played.journals[index].of("finished")[0]["round"] for index in (0, 1)] == [4, 4]


async def test_training_that_is_cancelled_ends_with_its_batch_and_leaves_the_thread_to_other_work():
    started, stops = threading.Event(), []

    def train_for_ever(round, drift, stop):
        started.set()
        while not stop():
            time.sleep(0.001)
        stops.append(round)

    clock = WallClock()
    learner = SimpleNamespace(samples=1, train=train_for_ever)
    peer = SimpleNamespace(
        clock=clock, learner=learner, pace=Pace(1.0), schedule=Schedule(3), phase=lambda round, phase: None
    )
    training = asyncio.create_task(train(peer, 2))
    await asyncio.to_thread(started.wait)
    training.cancel()
    await asyncio.wait([training])
    assert await clock.work(lambda: list(stops), 0.0) == [2]
    clock.close()
