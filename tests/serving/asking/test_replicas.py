"""A session is opened once, shared, and opened anew when it broke."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
import torch

from decentral.errors import Refused, TransportError
from decentral.serving.access import access
from decentral.serving.asking.replicas import MOST_AT_ONCE, Patience, Replicas
from decentral.serving.client import Client
from decentral.wire.conversation import Task
from decentral.wire.limits import Limits


class Nobody:
    def began(self, peer: object) -> None:
        """Nobody watches."""

    def ended(self, peer: object, seconds: object) -> None:
        """Nobody watches."""


@asynccontextmanager
async def replicas_of(cluster):
    async with access(cluster.folder) as opened:
        made = Replicas(opened.links, Nobody(), Patience(opening=3))
        try:
            yield made
        finally:
            await made.close()


async def test_all_who_ask_at_once_share_one_session(cluster):
    made = await cluster()
    peer = made.anchors.peers[0].id
    async with replicas_of(made) as replicas:
        sessions = await asyncio.gather(*(replicas.session(peer) for _ in range(5)))
        assert len({id(session) for session in sessions}) == 1
        assert sessions[0].to == peer


async def test_a_session_that_broke_is_opened_anew_and_its_bytes_still_count(cluster):
    made = await cluster()
    anchor = made.anchors.peers[0]
    async with replicas_of(made) as replicas:
        first = await replicas.session(anchor.id)
        async with first.converse() as conversation:
            await conversation.say(Task("stage-0", bytes(32), {}))
            with pytest.raises(Refused):
                await conversation.hear()
        before = replicas.traffic
        assert min(before) > 0
        async with first.converse() as conversation:
            await made.kill(anchor.name)
            with pytest.raises(TransportError):
                async with asyncio.timeout(30):
                    await conversation.hear()
        assert first.broken
        with pytest.raises(TransportError):
            async with first.converse():
                """Nobody would ever hear anything in it."""
        with pytest.raises(TransportError):
            await replicas.session(anchor.id)
        assert replicas.traffic >= before


async def test_nobody_is_reached_whom_the_trust_file_does_not_name(cluster):
    made = await cluster()
    async with replicas_of(made) as replicas:
        with pytest.raises(TransportError):
            await replicas.session("a" * 52)


async def test_who_asks_about_a_part_takes_its_turn_in_the_order_of_coming(cluster):
    made = await cluster()
    came: list[int] = []

    async def ask(replicas: Replicas, number: int) -> None:
        async with replicas.turn("stage-0"):
            came.append(number)
            await asyncio.sleep(0)

    async with replicas_of(made) as replicas, asyncio.timeout(20):
        for _ in range(MOST_AT_ONCE):
            await replicas.turn("stage-0").acquire()
        waiting = [asyncio.create_task(ask(replicas, number)) for number in range(10)]
        async with replicas.turn("stage-1"):
            assert came == []
        replicas.turn("stage-0").release()
        await asyncio.gather(*waiting)
    assert came == list(range(10))


async def test_more_questions_than_a_session_may_have_are_answered_without_one_refusal(cluster):
    made = await cluster()
    many = Limits().conversations + 20
    assert Limits().conversations > MOST_AT_ONCE
    batches = torch.rand(many, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    async with Client.connect(made.folder) as client, asyncio.TaskGroup() as group:
        asked = [group.create_task(client.predict(batch)) for batch in batches]
    assert all(torch.equal(each.result().output, made.expected(x)) for each, x in zip(asked, batches, strict=True))
    assert client.busy == 0
