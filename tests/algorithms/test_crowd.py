"""A sample is the first that answer; what is known of the others is their own signed word, and takes few bytes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from decentral.algorithms.crowd import Crowd
from decentral.algorithms.modest import MoDeST
from decentral.errors import Refusal, Refused
from decentral.wire.messages import Join, Leave, MembershipStatus, News, Welcome

PEERS = 8


class Waiting(MoDeST):
    """Does nothing, so that a test alone moves the crowd."""

    async def run(self, peer):
        await asyncio.sleep(100.0)


@pytest.fixture
def crowds(world):
    """Runs a script beside peers that only answer, and gives it their crowds."""

    def play(script, **options):
        outcome = []

        async def scene(stage):
            await asyncio.sleep(0.1)
            outcome.append(await script(stage, stage.sessions))

        stage = world(PEERS, Waiting, **options)
        stage.play(scene)
        return outcome[0]

    return play


def test_all_draw_the_same_sample_and_the_dead_are_replaced(crowds):
    async def script(stage, crowds):
        order = crowds[0].order(5)
        clean = [await crowds[index].draw(5) for index in (0, 3)]
        for index in order[1:3]:
            await stage.crash(index)
            del stage.tasks[index]
        watcher = next(index for index in range(PEERS) if index not in order[:4])
        return order, clean, await crowds[watcher].draw(5)

    order, clean, damaged = crowds(script)
    assert [list(sample.peers) for sample in clean] == [order[:3]] * 2
    assert list(damaged.peers) == [order[0], *order[3:5]]


def test_when_too_few_are_left_a_sample_is_all_of_them(crowds):
    async def script(stage, crowds):
        for index in range(2, PEERS):
            await stage.crash(index)
            del stage.tasks[index]
        return await crowds[0].draw(3)

    assert sorted(crowds(script).peers) == [0, 1]


def test_who_answers_counts_as_active_in_that_round_and_so_does_who_asks(crowds):
    async def script(stage, crowds):
        await crowds[0].ping([1, 2], 4)
        return crowds[0].view.active.tolist(), int(crowds[1].view.active[0])

    assert crowds(script) == ([0, 4, 4, 0, 0, 0, 0, 0], 4)


def test_a_peer_says_of_itself_no_round_that_there_is_not(crowds):
    async def script(stage, crowds):
        await crowds[0].ping([1], 10**6)
        return int(crowds[1].view.active[0])

    assert crowds(script, rounds=7) == 7


def test_news_brings_a_record_and_who_was_active_when(crowds):
    async def script(stage, crowds):
        record = stage.signers[5].record(MembershipStatus.LEAVE, "memory:5", 0)
        crowds[0].admit(record)
        crowds[0].view.see(np.array([3, 4]), np.array([9, 2]), 9)
        news = crowds[0].news(since=9, round=9)
        crowds[1].take(news, 9)
        return news, crowds[1].view.members().tolist(), crowds[1].view.active.tolist()

    news, members, active = crowds(script, rounds=20)
    assert [record.peer for record in news.records] and news.peers.tolist() == [3]
    assert members == [True] * 5 + [False] + [True] * 2
    assert active[3] == 9 and active[4] == 0, "what is older than it asked for is not told"


def test_news_of_peers_that_the_plan_does_not_have_is_passed_over(crowds):
    async def script(stage, crowds):
        news = News((), np.array([0, 4000]), np.array([9, 9]), "recipe")
        assert crowds[1].take(news, 9)
        assert not crowds[1].take(replace(news, recipe_hash="another"), 9)
        return crowds[1].view.active.tolist()

    assert crowds(script, rounds=20) == [0] * PEERS


def test_a_peer_that_comes_back_outranks_its_past_and_is_given_all_that_is_known(crowds):
    async def script(stage, crowds):
        crowds[3].admit(stage.signers[2].record(MembershipStatus.LEAVE, "memory:2", 0))
        for index in range(PEERS):
            crowds[index].round = 6
        finished = await crowds[5].join(4, running=True)
        words = [crowds[index].view.word(5).counter for index in range(PEERS)]
        return finished, words, crowds[5].view.active.max()

    finished, words, newest = crowds(script, rounds=20)
    assert finished == 4
    assert sum(counter == 1 for counter in words) == PEERS, "its word ranks with the plan's, and above it"
    assert newest == 6


def lies(stage):
    """What somebody may send in the name of peer 1, honestly or not; each with the refusal that it deserves."""
    newer = stage.signers[1].record(MembershipStatus.JOIN, "memory:1", 5)
    older = stage.identities[1].record(MembershipStatus.JOIN, 1, "memory:1", 5)
    other = stage.signers[2].record(MembershipStatus.JOIN, "memory:2", 5)
    leave = stage.signers[1].record(MembershipStatus.LEAVE, "memory:1", 5)
    stranger = replace(other, counter=9)
    join = Join(newer, "recipe", "schema")
    return [
        (Join(newer, "another recipe", "schema"), Refusal.RECIPE),
        (Join(newer, "recipe", "another schema"), Refusal.SCHEMA),
        (Join(newer, "recipe", "schema", protocol_version=9), Refusal.PROTOCOL_VERSION),
        (Join(leave, "recipe", "schema"), Refusal.MALFORMED),
        (Join(other, "recipe", "schema"), Refusal.SIGNATURE),
        (Leave(other), Refusal.SIGNATURE),
        (Join(stranger, "recipe", "schema"), Refusal.SIGNATURE),
        (join, None),
        (join, None),
        (Join(older, "recipe", "schema"), None if older == newer else Refusal.STALE),
        (Leave(leave), None),
    ]


def test_forged_replayed_and_foreign_words_are_refused_and_honest_ones_taken(crowds):
    async def script(stage, crowds):
        found = []
        for message, refusal in lies(stage):
            try:
                answer = await crowds[1].transport.request(stage.identities[0].id, message, 2.0)
            except Refused as refused:
                found.append((refused.reason, refusal))
            else:
                assert isinstance(answer, Welcome) == isinstance(message, Join)
                found.append((None, refusal))
        return found, crowds[0].view.members()[1]

    found, member = crowds(script)
    assert [got for got, _ in found] == [due for _, due in found]
    assert not member, "the leave was the last word"


def test_a_peer_whom_all_refuse_stops_with_the_reason(world):
    stage = world(4, Waiting, hashes=lambda index: "other" if index == 2 else "recipe")

    async def script(stage):
        await asyncio.sleep(0.1)
        crowd = stage.sessions[2]
        assert isinstance(crowd, Crowd)
        with pytest.raises(Refused, match="recipe"):
            await crowd.join(0, running=True)

    stage.play(script)


def test_who_looks_around_finds_the_newest_aggregate_wherever_it_is(crowds):
    async def script(stage, crowds):
        crowds[6].round = 3
        return [await crowds[index].look() for index in range(PEERS - 2)]

    found = crowds(script)
    assert (3, 6) in found


def test_who_is_revoked_is_drawn_no_more_and_no_word_of_its_own_is_taken(crowds):
    async def script(stage, crowds):
        crowd, gone = crowds[0], stage.sessions[3].transport.id
        record = stage.sessions[3]._signer.record(MembershipStatus.JOIN, "elsewhere:1", 2)
        before = crowd.order(5), crowd.members()
        crowd._revoked = lambda: {gone}
        taken = crowd.admit(record)
        crowds[1].admit(record)
        return before, (crowd.order(5), crowd.members()), taken, crowds[1]._records[3] == record

    before, after, taken, others = crowds(script)
    assert after == tuple([peer for peer in each if peer != 3] for each in before)
    assert not taken and others
