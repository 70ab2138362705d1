"""Who is there: losing, leaving, coming back, and the strangers who stay outside."""

from __future__ import annotations

import asyncio

import pytest

from decentral.algorithms.dpsgd import DPSGD
from decentral.errors import Refusal, Refused, leading
from decentral.wire.messages import Join, MembershipStatus, Welcome


@pytest.mark.parametrize("moment", [0.5, 1.005, 1.5, 2.03, 3.0, 4.9])
def test_the_others_go_on_when_a_peer_is_killed_at_any_moment(world, moment):
    played = world(5, DPSGD).play(world.killing(2, moment))
    survivors = [played.journals[index] for index in (0, 1, 3, 4)]
    assert [journal.of("finished")[0]["round"] for journal in survivors] == [5] * 4
    assert {1, 3} == {i for i in (0, 1, 3, 4) if [e["other"] for e in played.journals[i].of("lost")] == [2]}


@pytest.mark.parametrize("away", [0.2, 1.0, 2.5])
def test_a_killed_peer_returns_to_the_running_session_and_is_counted_on_again(world, away):
    played = world(5, DPSGD, rounds=12).play(world.killing(2, 3.5, away))
    assert [journal.of("finished")[-1]["round"] for journal in played.journals.values()] == [12] * 5
    for neighbour in (1, 3):
        last = played.journals[neighbour].of("exchanged")[-1]
        assert 2 in last["received"] and not last["missing"]
    rounds = [event["round"] for event in played.journals[2].of("round")]
    assert rounds == sorted(set(rounds)), "no round is done twice"


def test_a_healed_partition_brings_the_sides_together_again(world):
    async def script(stage):
        await asyncio.sleep(2.5)
        left = [stage.identities[i].id for i in (0, 1)]
        right = [stage.identities[i].id for i in (2, 3)]
        stage.network.partition(left, right)
        await asyncio.sleep(20.0)
        stage.network.heal()

    played = world(4, DPSGD, rounds=80).play(script)
    for journal in played.journals.values():
        assert journal.of("lost") and journal.of("returned")
        assert not journal.of("exchanged")[-1]["missing"]


def cutting_off(index: int, at: float, seconds: float):
    async def script(stage) -> None:
        await asyncio.sleep(at)
        stage.network.partition([stage.identities[index].id])
        await asyncio.sleep(seconds)
        stage.network.heal()

    return script


@pytest.mark.parametrize("seconds", [3.0, 20.0, 29.0, 31.0])
def test_a_peer_that_is_cut_off_waits_and_takes_part_again_where_the_others_are(world, seconds):
    played = world(5, DPSGD, rounds=60).play(cutting_off(2, 2.5, seconds))
    alone = [event for event in played.journals[2].of("exchanged") if not event["received"]]
    assert len(alone) <= 3, "the round in which it lost them, and two for which nobody can be told any more"
    assert played.journals[2].of("returned")
    for index, journal in played.journals.items():
        assert not journal.of("exchanged")[-1]["missing"]
        assert journal.of("finished")[-1]["round"] == 60
        assert index == 2 or not journal.of("cut_off")


def test_a_peer_that_stays_cut_off_goes_on_alone_after_a_round_s_deadline(world):
    played = world(3, DPSGD, rounds=5).play(cutting_off(2, 2.5, 500.0))
    assert [journal.of("finished")[-1]["round"] for journal in played.journals.values()] == [5] * 3
    waited = played.journals[2].of("finished")[0]["t"] - played.journals[2].of("cut_off")[0]["t"]
    assert waited == pytest.approx(30.0 + 3.0, abs=3.0)
    assert not any(played.journals[index].of("cut_off") for index in (0, 1))


def test_a_peer_whose_partners_have_died_or_left_does_not_wait_for_them(world):
    async def script(stage) -> None:
        await asyncio.sleep(2.5)
        for index in (0, 1):
            await stage.crash(index)
            del stage.tasks[index]

    played = world(3, DPSGD, rounds=5).play(script)
    assert not played.journals[2].of("cut_off") and played.journals[2].of("finished")[0]["t"] < 20.0


def test_a_peer_with_another_recipe_is_refused_by_all_and_stops_with_the_reason(world):
    stage = world(3, DPSGD, rounds=2, hashes=lambda index: "other" if index == 1 else "recipe")
    with pytest.raises(BaseExceptionGroup) as raised:
        stage.play()
    refused = leading(raised.value)
    assert isinstance(refused, Refused) and refused.reason is Refusal.RECIPE


def test_a_peer_that_leaves_is_not_taken_for_a_crash(world):
    async def script(stage):
        await asyncio.sleep(2.5)
        stage.tasks[2].cancel()
        await asyncio.gather(stage.tasks.pop(2), return_exceptions=True)

    played = world(5, DPSGD).play(script)
    assert all(not played.journals[index].of("lost") for index in (0, 1, 3, 4))
    assert [played.journals[index].of("finished")[0]["round"] for index in (0, 1, 3, 4)] == [5] * 4


def test_a_join_that_arrives_twice_is_answered_twice_and_an_older_one_refused(world):
    async def script(stage):
        await asyncio.sleep(2.5)
        ask = stage.sessions[0].transport.request
        older, newer = (stage.signers[0].record(MembershipStatus.JOIN, "memory:0", 4) for _ in range(2))
        first = await ask(stage.identities[1].id, Join(newer, "recipe", "schema"), 2.0)
        again = await ask(stage.identities[1].id, Join(newer, "recipe", "schema"), 2.0)
        assert isinstance(first, Welcome) and first == again
        with pytest.raises(Refused) as refused:
            await ask(stage.identities[1].id, Join(older, "recipe", "schema"), 2.0)
        assert refused.value.reason is Refusal.STALE

    played = world(3, DPSGD, rounds=6).play(script)
    assert [journal.of("finished")[0]["round"] for journal in played.journals.values()] == [6] * 3


def test_a_partner_cannot_make_us_wait_for_a_round_that_there_is_not(world):
    async def script(stage):
        await asyncio.sleep(2.5)
        record = stage.signers[0].record(MembershipStatus.JOIN, "memory:0", 2**40)
        welcome = await stage.sessions[0].transport.request(
            stage.identities[1].id, Join(record, "recipe", "schema"), 2.0
        )
        assert welcome.round == 7

    world(3, DPSGD, rounds=6).play(script)
