"""A few clients a round, drawn alike by all: only they work, everybody ends with the last average, whoever dies."""

from __future__ import annotations

import asyncio
import math
from functools import partial

import pytest
import torch

from decentral.algorithms.fedavg import FedAvg
from decentral.core.encodings import BFloat16, Int8, Plain, TopK
from decentral.core.outer import Nesterov
from decentral.core.rules import Median


def sampled(clients):
    return partial(FedAvg, clients)


@pytest.fixture
def alike(world):
    """All begin with the same model, so that after k rounds of one step each the average is k."""

    def build(peers, clients, **options):
        stage = world(peers, sampled(clients), **{"rounds": 12, **options})
        for learner in stage.learners:
            learner.value.fill_(0.0)
        return stage

    return build


def clients_of(played, round):
    return {index for index, learner in enumerate(played.learners) if round in learner.trained}


def drawn(played):
    return [clients_of(played, round) for round in range(1, played.rounds + 1)]


def sent(played):
    """Bytes of models, by peer."""
    return [journal.of("round")[-1]["bytes"]["model"] for _, journal in sorted(played.journals.items())]


# ---- who works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [1, 3, 7])
def test_so_many_train_in_each_round_the_same_for_the_same_seed(alike, clients):
    played, again = (alike(8, clients).play() for _ in range(2))
    assert drawn(played) == drawn(again)
    assert {len(some) for some in drawn(played)} == {clients}
    assert len({frozenset(some) for some in drawn(played)}) > 4
    assert played.values == pytest.approx([12.0] * 8)


def test_another_seed_draws_others(alike):
    other = alike(8, 3)
    other.layout = type(other.layout)(8, "ring", other.layout.edges, seed=1)
    assert drawn(other.play()) != drawn(alike(8, 3).play())


def test_every_round_is_the_mean_of_its_clients_weighed_by_their_samples(world):
    """Two steps: the first model of each is its index, and the clients of round 2 begin with the average of round 1."""
    played = world(8, sampled(3), rounds=1, step=0.0, samples=lambda index: 10 * (index + 1)).play()
    some = clients_of(played, 1)
    expected = sum(index * (index + 1) for index in some) / sum(index + 1 for index in some)
    assert played.values == pytest.approx([expected] * 8)
    assert played.journals[0].of("merged")[0]["weights"] == pytest.approx(
        {index: (index + 1) / sum(other + 1 for other in some) for index in sorted(some)}
    )


def test_the_aggregator_trains_when_it_is_drawn_and_only_then(alike):
    played = alike(8, 3).play()
    assert 0 < len(played.learners[0].trained) < 12
    assert [event["round"] for event in played.journals[0].of("merged")] == list(range(1, 13))


def test_a_peer_that_is_never_drawn_sends_no_model_and_gets_one(alike):
    played = alike(12, 1, rounds=5).play()
    idle = [index for index in range(1, 12) if not played.learners[index].trained]
    assert len(idle) >= 7
    assert all(sent(played)[index] == 0 for index in idle)
    assert all([event["round"] for event in played.journals[index].of("round")] == [1, 2, 3, 4, 5] for index in idle)
    assert all([event["round"] for event in played.journals[index].of("evaluated")] == [5] for index in idle)


def test_a_round_costs_a_model_down_and_one_up_for_each_client_however_many_peers_there_are(alike):
    """Beside them everybody gets the last average; who aggregates needs no message for its own model."""

    def letters(peers, clients, rounds=20):
        played = alike(peers, clients, rounds=rounds).play()
        others = [len(some - {0}) for some in drawn(played)]
        one = sent(alike(2, 2, rounds=1).play())[1]
        assert sum(sent(played)) == pytest.approx(one * (sum(others[1:]) + sum(others) + peers - 1), rel=0.03)
        return sum(sent(played)) - one * (peers - 1)

    assert letters(20, 4) == pytest.approx(letters(10, 4), rel=0.15)
    assert letters(20, 8) == pytest.approx(2 * letters(20, 4), rel=0.15)


def test_the_average_of_a_round_is_evaluated_once_and_the_last_one_by_all(alike):
    played = alike(8, 3).play()
    seen = {index: journal.of("evaluated") for index, journal in played.journals.items()}
    assert [event["round"] for event in seen[0]] == list(range(1, 13))
    assert [event["loss"] for event in seen[0]] == pytest.approx(list(range(1, 13)))
    assert all(
        [(event["round"], event["loss"]) for event in seen[index]] == [(12, seen[0][-1]["loss"])]
        for index in range(1, 8)
    )


@pytest.mark.parametrize("outer", [None, Nesterov(0.7, 0.9)])
@pytest.mark.parametrize("encoding", [Plain(), BFloat16(), Int8(), TopK(0.5)])
def test_all_peers_as_clients_end_as_without_a_number_of_clients(world, encoding, outer):
    ends = []
    for algorithm in (FedAvg, sampled(6)):
        stage = world(6, algorithm, rounds=6, encoding=lambda index: encoding, outer=outer)
        for index, learner in enumerate(stage.learners):
            learner.value.fill_(1.5)
            learner.samples = 10 * (index + 1)
        ends.append(stage.play().values)
    assert ends[0] == ends[1]
    assert len(set(ends[0])) == 1


def test_lost_messages_delay_a_run_and_change_nothing_else(alike):
    assert alike(8, 3).play().values == alike(8, 3, loss=0.05).play().values


def test_a_peer_that_lags_far_behind_is_reached_when_it_is_drawn(alike):
    """Rounds here are a hundredth of the time between two probes: who is not drawn knows of none of them."""
    played = alike(12, 2, rounds=60, samples=lambda index: 1).play()
    assert played.values == [60.0] * 12
    assert not any(journal.of("lost") for journal in played.journals.values())


# ---- who dies -------------------------------------------------------------------------------------------------------

MOMENTS = [0.5, 1.005, 1.02, 1.045, 1.06, 2.5, 3.07, 4.11, 6.02, 9.3]


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_round_goes_on_when_a_client_is_killed(alike, moment):
    first = alike(8, 3).play()
    victim = max(clients_of(first, 1 + int(moment)) - {0})
    stage = alike(8, 3)
    played = stage.play(stage.killing(victim, moment))
    left = [index for index in range(8) if index != victim]
    assert [played.values[index] for index in left] == pytest.approx([12.0] * 7)
    assert [played.journals[index].of("finished")[0]["round"] for index in left] == [12] * 7
    assert max(event["t"] for event in played.journals[0].of("round")) < 25


@pytest.mark.parametrize("clients", [2, 3, 6])
@pytest.mark.parametrize("moment", MOMENTS)
def test_another_peer_aggregates_when_the_aggregator_is_killed_and_no_round_is_lost(alike, moment, clients):
    stage = alike(8, clients)
    played = stage.play(stage.killing(0, moment))
    assert played.values[1:] == pytest.approx([12.0] * 7)
    assert [played.journals[index].of("finished")[0]["round"] for index in range(1, 8)] == [12] * 7
    assert [event["round"] for event in played.journals[1].of("merged")][-1] == 12
    assert max(event["t"] for event in played.journals[1].of("round")) < 25


@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
def test_the_only_client_of_a_round_ends_it_when_the_aggregator_is_killed(alike, moment):
    stage = alike(3, 1, rounds=6)
    played = stage.play(stage.killing(0, moment))
    alone = int(moment) + 1 in stage.learners[0].trained  # then its model is gone, and somebody trains for it again
    assert played.values[1:] == pytest.approx([6.0] * 2)
    assert max(event["t"] for event in played.journals[1].of("round")) < 15 + 70 * alone


def test_two_aggregators_may_die_one_after_the_other(alike):
    async def script(stage):
        for index, at in ((0, 2.5), (1, 4.0)):
            await asyncio.sleep(at)
            await stage.crash(index)
            del stage.tasks[index]

    played = alike(8, 3, rounds=20).play(script)
    assert played.values[2:] == pytest.approx([20.0] * 6)


@pytest.mark.parametrize("after", [0.1, 0.4, 0.7, 0.95])
def test_who_is_back_before_its_first_round_averages_the_one_in_which_its_successor_is_killed(alike, after):
    """It was not there when the clients of that round were drawn, and it holds no average."""

    async def script(stage):
        await asyncio.sleep(2.5)
        await stage.crash(0)
        await asyncio.sleep(5.0)
        stage.start(0, max(stage.shelves[0].saved), running=True)
        await asyncio.sleep(after)
        await stage.crash(1)
        del stage.tasks[1]

    played = alike(8, 3, rounds=20).play(script)
    assert [played.values[index] for index in (0, 2, 3, 4, 5, 6, 7)] == pytest.approx([20.0] * 7)
    assert max(event["t"] for event in played.journals[0].of("round")) < 35


@pytest.mark.parametrize("away", [0.3, 2.0, 6.0])
@pytest.mark.parametrize("victim", [0, 5])
def test_who_comes_back_is_drawn_again_and_the_average_that_there_is_stays(alike, victim, away):
    stage = alike(8, 3, rounds=40)
    played = stage.play(stage.killing(victim, 4.5, away=away))
    assert played.values == pytest.approx([40.0] * 8)
    assert [journal.of("finished")[-1]["round"] for journal in played.journals.values()] == [40] * 8
    back = [event["round"] for event in played.journals[victim].of("trained")]
    assert back == sorted(back) and back[-1] > 20
    if victim == 0:
        assert played.journals[0].of("merged")[-1]["round"] == 40, "it aggregates again"


def test_an_aggregator_that_answers_and_does_not_go_on_is_given_up(alike):
    """Its learner never comes to an end; the others wait for it as for an average, and go on without it."""

    async def script(stage):
        await asyncio.sleep(2.5)
        session = stage.sessions[0]
        session.collect = lambda *senders, **how: asyncio.Event().wait()
        session.stirred = lambda: asyncio.Event().wait()
        await asyncio.sleep(400)
        stage.tasks.pop(0).cancel()

    played = alike(8, 3).play(script)
    assert played.values[1:] == pytest.approx([12.0] * 7)


def test_a_client_whose_model_is_not_finite_is_left_out(alike):
    stage = alike(8, 3)
    stage.learners[6]._step = math.nan
    played = stage.play()
    lies = [event["round"] for event in played.journals[0].of("rejected")]
    assert lies == played.learners[6].trained and len(lies) > 1
    assert played.values == pytest.approx([12.0] * 8)


def test_a_robust_rule_judges_the_clients_of_a_round(alike):
    stage = alike(8, 5, rule=Median())
    stage.learners[6]._step = 1e6
    assert stage.play().values == pytest.approx([12.0] * 8)


# ---- from one round to the next -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [BFloat16(), Int8(), TopK(0.5)])
def test_everybody_ends_with_the_average_that_the_others_read(alike, encoding):
    played = alike(8, 3, encoding=lambda index: encoding).play()
    assert len(set(played.values)) == 1
    assert played.values[0] == pytest.approx(12.0, rel=0.05)


def test_the_outer_optimiser_goes_on_with_its_momentum_whoever_is_drawn(alike):
    played = alike(8, 3, outer=Nesterov(0.7, 0.9)).play()
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    sgd = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(12):
        parameter.grad = torch.tensor([-1.0], dtype=torch.float64)
        sgd.step()
    assert played.values == pytest.approx([parameter.item()] * 8)


def test_the_outer_optimiser_begins_again_with_a_new_aggregator(alike):
    stage = alike(8, 3, outer=Nesterov(0.7, 0.9))
    played = stage.play(stage.killing(0, 5.5))
    assert len(set(played.values[1:])) == 1
    assert 12 * 0.7 < played.values[1] < alike(8, 3, outer=Nesterov(0.7, 0.9)).play().values[1]
