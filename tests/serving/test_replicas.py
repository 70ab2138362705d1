"""A session is opened once, shared, and opened anew when it broke."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from decentral.errors import Refused, TransportError
from decentral.serving.access import access
from decentral.serving.replicas import Patience, Replicas
from decentral.wire.conversation import Task


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
