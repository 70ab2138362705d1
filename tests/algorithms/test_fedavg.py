"""One peer aggregates: everybody ends with the sample-weighted average, whoever dies."""

from __future__ import annotations

import pytest
import torch

from decentral.algorithms.fedavg import FedAvg
from decentral.core.outer import Nesterov


def test_everybody_holds_the_sample_weighted_average(world):
    played = world(4, FedAvg, rounds=1, step=0.0, samples=lambda index: 10 * (index + 1)).play()
    expected = sum(index * 10 * (index + 1) for index in range(4)) / 100
    assert played.values == pytest.approx([expected] * 4)
    assert len(set(played.values)) == 1


def test_a_round_costs_one_model_up_and_one_down_for_each_other_peer(world):
    played = world(5, FedAvg, rounds=3).play()
    sent = [journal.of("round")[-1]["bytes"]["model"] for journal in played.journals.values()]
    assert sent[0] > 0 and sent[1] == sent[2] == sent[3] == sent[4]
    assert sent[0] == pytest.approx(4 * sent[1], rel=0.1)


@pytest.mark.parametrize("moment", [0.5, 1.02, 1.045, 1.06, 1.5, 2.05])
def test_the_next_peer_aggregates_when_the_aggregator_is_killed(world, moment):
    played = world(4, FedAvg, rounds=5).play(world.killing(0, moment))
    assert [played.journals[index].of("finished")[0]["round"] for index in (1, 2, 3)] == [5] * 3
    assert len(set(played.values[1:])) == 1
    assert played.journals[1].of("merged")[-1]["weights"].keys() == {1, 2, 3}


def test_the_average_goes_on_without_a_participant_that_is_killed(world):
    played = world(4, FedAvg, rounds=4).play(world.killing(3, 1.5))
    assert len(set(played.values[:3])) == 1
    assert played.journals[0].of("merged")[-1]["weights"].keys() == {0, 1, 2}


def test_clients_wait_longer_for_the_average_than_the_aggregator_for_their_models(world):
    """Peer 3 trains for longer than the deadline: the aggregator goes on without it, and so do the others."""
    played = world(4, FedAvg, rounds=1, step=0.0, samples=lambda index: 100 if index < 3 else 4000).play()
    assert played.journals[0].of("merged")[0]["weights"].keys() == {0, 1, 2}
    assert played.values[:3] == pytest.approx([1.0] * 3)
    assert all(played.journals[index].of("exchanged")[0]["received"] == [0] for index in (1, 2))


# ---- an outer optimiser --------------------------------------------------------------------------------------------


def steps(rounds, rate, momentum, pull=1.0):
    """Where SGD with Nesterov's momentum stands after each round, if an average is always `pull` ahead of it."""
    parameter = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    sgd = torch.optim.SGD([parameter], lr=rate, momentum=momentum, nesterov=True)
    found = []
    for _ in range(rounds):
        parameter.grad = torch.tensor([-pull], dtype=torch.float64)
        sgd.step()
        found.append(parameter.item())
    return found


@pytest.fixture
def outer_world(world):
    def build(rounds, **options):
        stage = world(4, FedAvg, rounds=rounds, outer=Nesterov(0.7, 0.9), **options)
        for learner in stage.learners:
            learner.value.fill_(1.5)  # all begin with the same model
        return stage

    return build


def test_the_outer_optimiser_steps_towards_each_average_with_momentum(outer_world):
    played = outer_world(6).play()
    assert len(set(played.values)) == 1
    assert played.values[0] == pytest.approx(steps(6, 0.7, 0.9)[-1])
    assert [event["loss"] for event in played.journals[0].of("evaluated")] == pytest.approx(steps(6, 0.7, 0.9))


def test_the_momentum_outlives_the_aggregator(outer_world, world):
    """Everybody follows it: the next aggregator goes on as the first would have done."""
    played = outer_world(8).play(world.killing(0, 4.5))
    assert played.values[1:] == pytest.approx([steps(8, 0.7, 0.9)[-1]] * 3)
    trails = [played.shelves[index].memory["algorithm/trail/value"].item() for index in (1, 2, 3)]
    assert len(set(trails)) == 1


def test_an_aggregator_that_was_away_takes_no_step_from_the_model_that_it_left_with(outer_world, world):
    """It takes the plain average of its first round instead, and begins again without momentum."""
    played = outer_world(14).play(world.killing(0, 2.5, away=4.0))
    assert len(set(played.values)) == 1
    seen = [event["loss"] for event in played.journals[1].of("evaluated")]
    first = played.journals[0].of("evaluated")[2]["round"]
    assert 3 < first < 12
    left_with = played.journals[0].of("evaluated")[1]["loss"] + 2  # trained twice: as it was killed, and now
    assert seen[first - 1] == pytest.approx((left_with + 3 * (seen[first - 2] + 1)) / 4)
    assert seen[first] - seen[first - 1] == pytest.approx(steps(1, 0.7, 0.9)[0] - 1.5)


def test_a_single_round_with_an_outer_rate_of_one_and_no_momentum_is_plain_averaging(world):
    found = []
    for outer in (None, Nesterov(1.0, 0.0)):
        stage = world(4, FedAvg, rounds=3, outer=outer, samples=lambda index: 10 * (index + 1))
        for learner in stage.learners:
            learner.value.fill_(1.0)
        found.append(stage.play().values)
    assert found[0] == pytest.approx(found[1])
