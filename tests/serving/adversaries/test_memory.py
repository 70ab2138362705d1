"""What is said in memory comes as it would over a wire: in order, once, from whom it is from, or an error."""

from __future__ import annotations

import asyncio

import pytest
import torch

from decentral.errors import Malformed, Refusal, Refused, Unreachable
from decentral.serving.adversaries.memory import MemoryReplicas
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Task
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Client

PEER, ME = PeerId("a" * 52), PeerId("b" * 52)
TASK = Task("stage-1", b"m" * 32, {"x": torch.ones(2)})
COMMITMENT, REVEAL = Commitment(b"c" * 32), Reveal(b"k" * 32, b"o" * 32, b"s" * 32, b"g" * 64)


async def honest(task: Task, client: Client) -> None:
    assert client.sender == ME
    await client.say(COMMITMENT)
    assert await client.hear() == Open((b"c" * 32,))
    await client.say(REVEAL)
    assert await client.hear() == Fetch()
    await client.say(Output(task.tensors))


def replicas(serve=honest) -> MemoryReplicas:
    return MemoryReplicas({PEER: serve}, ME)


async def test_a_conversation_is_had_to_its_end() -> None:
    session = await replicas().session(PEER)
    async with session.converse() as conversation:
        await conversation.say(TASK)
        assert await conversation.hear() == COMMITMENT
        await conversation.say(Open((b"c" * 32,)))
        await conversation.say(Fetch())
        assert await conversation.hear() == REVEAL
        output = await conversation.hear()
    assert isinstance(output, Output)
    assert torch.equal(output.tensors["x"], torch.ones(2))


async def test_conversations_do_not_hear_one_another() -> None:
    session = await replicas().session(PEER)
    async with session.converse() as one, session.converse() as other:
        await one.say(TASK)
        await other.say(TASK)
        assert await one.hear() == COMMITMENT
        await one.say(Open((b"c" * 32,)))
        assert await one.hear() == REVEAL
        assert await other.hear() == COMMITMENT
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await other.hear()


async def test_who_leaves_calls_the_task_off() -> None:
    ended = asyncio.Event()

    async def patient(task: Task, client: Client) -> None:
        try:
            await client.hear()
        finally:
            ended.set()

    async with (await replicas(patient).session(PEER)).converse() as conversation:
        await conversation.say(TASK)
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_a_refusal_and_a_crash_come_as_errors() -> None:
    async def refusing(task: Task, client: Client) -> None:
        raise Malformed(Refusal.SCHEMA, "another shape")

    async with (await replicas(refusing).session(PEER)).converse() as conversation:
        await conversation.say(TASK)
        with pytest.raises(Refused, match="another shape") as refused:
            await conversation.hear()
        assert refused.value.reason is Refusal.SCHEMA

    async def crashing(task: Task, client: Client) -> None:
        await client.say(COMMITMENT)
        await client.hear()
        raise ConnectionAbortedError("crashed")

    session = await replicas(crashing).session(PEER)
    async with session.converse() as conversation, session.converse() as beside:
        await conversation.say(TASK)
        await beside.say(TASK)
        assert await conversation.hear() == COMMITMENT
        await conversation.say(Open((b"c" * 32,)))
        assert await beside.hear() == COMMITMENT
        for each in (conversation, beside):
            with pytest.raises(Unreachable, match="crashed"):
                await each.hear()


async def test_a_mistake_of_ours_is_no_crash_of_the_peer() -> None:
    async def mistaken(task: Task, client: Client) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        async with (await replicas(mistaken).session(PEER)).converse() as conversation:
            await conversation.say(TASK)
            await asyncio.sleep(0.01)


async def test_who_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="nobody"):
        await replicas().session(ME)
    assert replicas().traffic == (0, 0)
    await replicas().close()
