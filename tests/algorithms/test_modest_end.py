"""Whoever goes takes nothing with it: the last aggregate comes to those first who would go on, and has an heir."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from decentral.algorithms.modest import MoDeST
from decentral.algorithms.modest_end import HEIR, STANDING, stand_by
from decentral.wire.messages import Model, Pong

PEERS, ROUNDS = 40, 3
SLOW = 200.0
"""Bytes a second: to hand the last aggregate to all takes longer than patience lasts."""


@pytest.fixture
def slow(world):
    def build(**options):
        stage = world(PEERS, MoDeST, **{"rounds": ROUNDS, "bandwidth": SLOW, **options})
        for learner in stage.learners:
            learner.value.zero_()
        return stage

    return build


def averages(stage):
    found = [(event["t"], event["round"]) for journal in stage.journals.values() for event in journal.of("merged")]
    return sorted(found)


@pytest.mark.parametrize("seed", range(8))
def test_nobody_trains_after_the_last_average_however_long_it_takes_to_hand_it_out(slow, seed):
    stage = slow()
    stage = slow(sampling=replace(stage.sampling, seed=seed)).play()
    last = averages(stage)[-1][0]
    trained = [event["t"] for journal in stage.journals.values() for event in journal.of("trained")]
    finished = [journal.of("finished")[-1] for journal in stage.journals.values()]
    assert max(event["t"] for event in finished) > last + 1.5 * stage.sampling.patience, "it does take long"
    assert max(trained) <= last
    assert [event["round"] for event in finished] == [ROUNDS] * PEERS


@pytest.mark.parametrize(("gracefully", "moment"), [(True, 0.0), (True, 0.1), (True, 2.0), (False, 0.5), (False, 2.0)])
def test_who_goes_while_it_hands_out_has_an_heir(slow, gracefully, moment):
    """All others come to the same end, and nobody averages again; a crash must leave it the time for a first model."""
    plain = slow(bandwidth=4 * SLOW).play()
    last, maker = max((event["t"], index) for index in plain.journals for event in plain.journals[index].of("merged"))

    async def script(stage):
        await asyncio.sleep(last + 0.001 + moment)
        if gracefully:
            stage.tasks[maker].cancel()
            await asyncio.wait([stage.tasks[maker]])
            stage.network.crash(stage.identities[maker].id)  # the process has ended
        else:
            await stage.crash(maker)
        del stage.tasks[maker]

    stage = slow(bandwidth=4 * SLOW).play(script)
    others = [journal for index, journal in stage.journals.items() if index != maker]
    assert [journal.of("finished")[-1]["round"] for journal in others] == [ROUNDS] * (PEERS - 1)
    assert [round for _, round in averages(stage)] == list(range(1, ROUNDS + 1))
    assert not stage.journals[maker].of("finished"), "it did not come to the end of it"


def test_who_was_away_while_the_last_aggregate_went_round_has_patience_left_to_come_back(slow):
    """However long it takes to hand it to all the others; it does not begin the last rounds again by itself."""
    plain = slow().play()
    last, maker = max((event["t"], index) for index in plain.journals for event in plain.journals[index].of("merged"))
    over = plain.journals[maker].of("finished")[-1]["t"]
    assert over > last + 1.5 * plain.sampling.patience
    away = max(plain.journals, key=lambda index: plain.journals[index].of("finished")[-1]["t"] * (index != maker))

    async def script(stage):
        await asyncio.sleep(last + 0.1)
        await stage.crash(away)
        finished = max(stage.shelves[away].saved, default=0)
        await asyncio.sleep(over - last)  # without its model the others have got theirs a little earlier
        stage.start(away, finished, running=True)

    stage = slow().play(script)
    assert [journal.of("finished")[-1]["round"] for journal in stage.journals.values()] == [ROUNDS] * PEERS
    assert [round for _, round in averages(stage)] == list(range(1, ROUNDS + 1))
    assert len(set(stage.values)) == 1, "all end with the same aggregate"


async def test_an_heir_stands_by_for_so_long_and_hands_the_aggregate_out_itself():
    """Whoever made it answers for ever, and has handed it to nobody."""
    loop, handed = asyncio.get_running_loop(), []
    model = Model(7, {"value": torch.zeros(1)}, tag=HEIR)

    async def ask(peers, round):
        return {peer: Pong(6 if peer == 3 else 7) for peer in peers}

    async def send(peer, model):
        handed.append(peer)
        return True

    patience = SimpleNamespace(patience=0.01, ping=0.004)
    crowd = SimpleNamespace(index=0, members=lambda: [0, 1, 2, 3], ask=ask, sampling=patience)
    began = loop.time()
    async with asyncio.timeout(5.0):
        await stand_by(crowd, send, model, maker=1)
    assert loop.time() - began >= STANDING * 0.01
    assert handed == [3]


def test_the_last_two_may_both_leave(slow):
    """Where nobody else is left to hand an aggregate to, a peer goes without."""

    async def script(stage):
        await asyncio.sleep(2.0)
        for index in range(2):
            stage.tasks[index].cancel()
        await asyncio.wait(stage.tasks.values())
        stage.tasks.clear()

    stage = replace(slow(), count=2, bandwidth=12.5e6)
    stage.play(script)
    assert not any(journal.of("finished") for journal in stage.journals.values())
