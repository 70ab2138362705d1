"""Whose model has come: of every partner and round, few and in time."""

from __future__ import annotations

import asyncio
from functools import partial

import torch

from decentral.algorithms.dpsgd import DPSGD
from decentral.algorithms.fedavg import FedAvg
from decentral.wire.messages import Model


def test_without_faults_nobody_is_lost(world):
    played = world(5, DPSGD).play()
    assert all(not journal.of("lost") for journal in played.journals.values())
    assert [journal.of("finished")[0]["round"] for journal in played.journals.values()] == [5] * 5


def test_lost_messages_delay_a_run_and_change_nothing_else(world):
    clean, lossy = world(5, DPSGD).play(), world(5, DPSGD, loss=0.05).play()
    assert clean.values == lossy.values


def test_a_partner_that_sends_under_many_tags_is_held_two_models(world):
    async def script(stage):
        await asyncio.sleep(2.5)
        for number in range(50):
            flood = Model(round=4, tensors={"value": torch.zeros(1)}, tag=f"tag {number}")
            await stage.sessions[0].transport.send(stage.identities[1].id, flood)
        held = [key for key, models in stage.sessions[1]._models.items() if 0 in models and key[0] == 4]
        assert len(held) <= 2

    world(3, DPSGD, rounds=6).play(script)


def test_of_a_tag_whose_newest_model_is_kept_a_partner_is_held_one_of_any_round_that_there_is(world):
    async def script(stage):
        await asyncio.sleep(2.5)
        session, send = stage.sessions[1], stage.sessions[2].transport.send
        for round in (9, 30, 12, 31, 40):
            await send(stage.identities[1].id, Model(round=round, tensors={"value": torch.zeros(1)}, tag="average"))
        assert session.latest("average")[2].round == 30, "round 12 is older, and there are no others"
        assert len([key for key, models in session._models.items() if key[1] == "average" and 2 in models]) == 1

    played = world(4, partial(FedAvg, 1), rounds=30).play(script)
    assert len(set(played.values)) == 1
