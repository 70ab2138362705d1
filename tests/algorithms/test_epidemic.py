"""A rumour that reaches everybody: few models sent a round, averages of what came, no wait for who is not there."""

from __future__ import annotations

from functools import partial

import pytest

from decentral.algorithms.epidemic import Epidemic


def received(played, index):
    return [event["received"] for event in played.journals[index].of("exchanged")]


@pytest.mark.parametrize("fanout", [1, 2, 3])
def test_a_peer_averages_its_own_model_with_all_that_came(world, fanout):
    played = world(6, partial(Epidemic, fanout), rounds=1, step=0.0).play()
    sent = 0
    for index in range(6):
        [of] = received(played, index)
        assert index not in of
        assert played.values[index] == pytest.approx((index + sum(of)) / (1 + len(of)))
        sent += len(of)
    assert sent == 6 * fanout


def test_with_the_oracle_as_many_come_as_go(world):
    played = world(7, partial(Epidemic, 2, regular=True), rounds=5).play()
    assert {len(of) for index in range(7) for of in received(played, index)} == {2}


@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("name", ["ring", "star"])
def test_the_differences_vanish_whatever_the_topology(world, regular, name):
    played = world(7, partial(Epidemic, 1, regular), topology_name=name, rounds=60, step=0.0).play()
    assert max(played.values) - min(played.values) < 1e-3
    assert 0 < played.values[0] < 6


def test_what_all_learn_adds_up(world):
    """Everybody takes one step a round, so that whatever is averaged with whatever has as many steps as rounds."""
    stage = world(5, Epidemic, rounds=8)
    for learner in stage.learners:
        learner.value.zero_()
    assert stage.play().values == pytest.approx([8.0] * 5)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_peers_than_models_to_send_send_to_all_there_are(world, count):
    played = world(count, partial(Epidemic, 3), rounds=3, step=0.0).play()
    assert played.values == [sum(range(count)) / count] * count


def test_no_model_is_lost_to_a_peer_that_ran_ahead(world):
    """Most peers hear from nobody in some rounds, and here all but one are a hundred times as fast."""
    played = world(6, Epidemic, rounds=20, step=0.0, samples=lambda index: 10 if index else 1000).play()
    assert all(not event["missing"] for journal in played.journals.values() for event in journal.of("exchanged"))


@pytest.mark.parametrize("regular", [False, True])
def test_peers_of_one_that_is_killed_go_on_without_it(world, regular):
    played = world(5, partial(Epidemic, 2, regular), rounds=40, step=0.0).play(world.killing(2, 3.5))
    left = [0, 1, 3, 4]
    assert [played.journals[index].of("finished")[0]["round"] for index in left] == [40] * 4
    values = [played.values[index] for index in left]
    assert max(values) - min(values) < 1e-3


def test_one_that_comes_back_is_sent_to_again(world):
    played = world(5, partial(Epidemic, 2), rounds=40, step=0.0).play(world.killing(2, 3.5, away=6.0))
    assert [played.journals[index].of("finished")[-1]["round"] for index in range(5)] == [40] * 5
    assert any(2 in of for of in received(played, 0)[-20:])


def test_lost_messages_delay_a_run_and_change_nothing_else(world):
    assert world(5, Epidemic, rounds=20).play().values == world(5, Epidemic, rounds=20, loss=0.05).play().values


def test_another_seed_sends_to_others(world):
    def all_received(seed):
        stage = world(5, Epidemic, rounds=10, step=0.0)
        stage.layout = type(stage.layout)(5, "ring", stage.layout.edges, seed)
        played = stage.play()
        return [received(played, index) for index in range(5)]

    assert all_received(0) == all_received(0) != all_received(1)
