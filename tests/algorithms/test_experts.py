"""Experts train to the end without a word; then each is at the router's peer once, whoever crashed in between."""

from __future__ import annotations

import asyncio

import pytest

from decentral.algorithms.experts import Experts
from decentral.errors import Refusal, Refused, leading

ROUTER = 3
"""Its peer, among four of 100 samples at 100 samples a second: a round takes a second."""


def ensemble(world, **options):
    return world(count=ROUTER + 1, algorithm=Experts, topology_name="star", rounds=5, **options)


def test_each_expert_knows_the_router_and_the_router_everybody():
    assert Experts().partners(0, {1, 2}, 4) == {3}
    assert Experts().partners(3, {0}, 4) == {0, 1, 2}
    assert Experts().partners(0, set(), 2) == {1}


def test_nothing_is_sent_before_the_end_and_every_expert_once(world):
    stage = ensemble(world).play()
    assert stage.publishers[ROUTER].parts == {0: 5.0, 1: 6.0, 2: 7.0}
    assert [stage.publishers[index].alone for index in range(4)] == [5.0, 6.0, 7.0, 8.0]
    assert all(publisher.parts == {} for index, publisher in stage.publishers.items() if index != ROUTER)
    for index in range(ROUTER):
        phases = [(entry["round"], entry["phase"]) for entry in stage.journals[index].of("phase")]
        assert [phase for _, phase in phases].count("exchange") == 1 and phases[-1] == (5, "exchange")
    [exchanged] = stage.journals[ROUTER].of("exchanged")
    assert exchanged["received"] == [0, 1, 2] and exchanged["missing"] == []


def test_peers_of_different_speed_wait_for_one_another(world):
    slow_router = ensemble(world, samples=lambda index: 1000 if index == ROUTER else 10).play()
    slow_expert = ensemble(world, samples=lambda index: 1000 if index == 1 else 10).play()
    for stage in (slow_router, slow_expert):
        assert stage.publishers[ROUTER].parts == {0: 5.0, 1: 6.0, 2: 7.0}


@pytest.mark.parametrize("away", [0.5, 8.0])
def test_an_expert_that_was_killed_goes_on_where_it_stopped(world, away: float):
    stage = ensemble(world).play(world.killing(1, at=2.5, away=away))
    assert stage.learners[1].trained == [1, 2, 3, 3, 4, 5]  # the third was under way, and counts twice here
    assert stage.publishers[ROUTER].parts == {0: 5.0, 1: 7.0, 2: 7.0}


def test_a_router_that_was_killed_with_the_experts_in_hand_gets_them_again(world):
    async def script(stage) -> None:
        while ROUTER not in stage.sessions or not any(stage.sessions[ROUTER]._models.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await stage.crash(ROUTER)
        await asyncio.sleep(6.0)
        stage.start(ROUTER, max(stage.shelves[ROUTER].saved), running=True)

    stage = ensemble(world, samples=lambda index: 110 if index == ROUTER else 100).play(script)
    assert stage.publishers[ROUTER].parts == {0: 5.0, 1: 6.0, 2: 7.0}
    assert stage.learners[ROUTER].trained.count(1) == 1


def test_a_router_that_is_back_before_anybody_missed_it_gets_them_again(world):
    async def script(stage) -> None:
        while ROUTER not in stage.sessions or not any(stage.sessions[ROUTER]._models.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await stage.crash(ROUTER)
        stage.start(ROUTER, max(stage.shelves[ROUTER].saved), running=True)

    stage = ensemble(world, samples=lambda index: 110 if index == ROUTER else 100).play(script)
    assert stage.publishers[ROUTER].parts == {0: 5.0, 1: 6.0, 2: 7.0}
    last = max(entry["t"] for index in range(4) for entry in stage.journals[index].of("finished"))
    assert last < 15.0  # the goodbye reaches those who count on the router from a later round on


def test_an_expert_that_never_comes_back_is_left_out_after_the_deadline(world):
    stage = ensemble(world).play(world.killing(1, at=2.5))
    assert stage.publishers[ROUTER].parts == {0: 5.0, 2: 7.0}
    [exchanged] = stage.journals[ROUTER].of("exchanged")
    assert exchanged["missing"] == [1]


def test_experts_end_without_a_router_after_the_deadline(world):
    stage = ensemble(world).play(world.killing(ROUTER, at=2.5))
    for index in range(ROUTER):
        assert stage.publishers[index].alone is not None
        assert stage.journals[index].of("exchanged")[0]["missing"] == [ROUTER]


def test_an_expert_that_is_not_finite_is_left_out(world):
    stage = ensemble(world)
    stage.learners[1].value.fill_(float("nan"))
    stage.play()
    assert stage.publishers[ROUTER].parts == {0: 5.0, 2: 7.0}
    assert [entry["other"] for entry in stage.journals[ROUTER].of("rejected")] == [1]


def test_a_router_without_any_expert_says_so(world):
    stage = ensemble(world)
    for index in range(ROUTER):
        stage.learners[index].value.fill_(float("inf"))
    with pytest.raises(ExceptionGroup) as caught:
        stage.play()
    assert "no expert came" in str(leading(caught.value))


def test_peers_that_disagree_on_the_assignment_do_not_train_together(world):
    stage = ensemble(world, hashes=lambda index: "other" if index == 1 else "recipe")
    with pytest.raises(ExceptionGroup) as caught:
        stage.play()
    refused = leading(caught.value)
    assert isinstance(refused, Refused) and refused.reason is Refusal.RECIPE
