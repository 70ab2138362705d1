"""Tasks on their way in: room is bounded, and kept for nobody who does not come."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
import torch

from decentral.errors import Refusal, Refused
from decentral.wire.conversation import Output, Task
from decentral.wire.framing import frames
from decentral.wire.limits import Limits
from decentral.wire.sessions import Client, Conversation, Session

DIGEST = bytes(32)


def task(value: float, part: str = "double") -> Task:
    return Task(part, DIGEST, {"x": torch.full((4,), value)})


async def double(given: Task, client: Client) -> None:
    await client.say(Output({"y": given.tensors["x"] * 2}))


async def test_what_exceeds_the_servers_share_is_refused_and_comes_through_later(serving: Any) -> None:
    gate = asyncio.Event()

    async def serve(given: Task, client: Client) -> None:
        await gate.wait()
        await double(given, client)

    _, session = await serving(serve, limits=Limits(conversations=2))
    held = [asyncio.ensure_future(session.ask(task(1.0), 20.0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as refused:
        await session.ask(task(1.0), 20.0)
    assert refused.value.reason is Refusal.BUSY
    gate.set()
    await asyncio.gather(*held)
    assert (await session.ask(task(1.0), 20.0)).tensors["y"][0] == 2.0


async def test_bytes_under_way_are_bounded_over_all_sessions_and_given_back(serving: Any) -> None:
    _, session = await serving(double, limits=Limits(held=100))
    for _ in range(20):
        await session.ask(task(1.0), 20.0)  # 16 bytes each: without giving back, the seventh would be refused
    with pytest.raises(Refused) as refused:
        await session.ask(Task("double", DIGEST, {"x": torch.zeros(26)}), 20.0)
    assert refused.value.reason is Refusal.BUSY


MIB = 1 << 20
WHOLE = Task("double", DIGEST, {"x": torch.ones(MIB >> 1)})
"""Of two chunks."""


async def begun(session: Session, stack: AsyncExitStack, many: int) -> list[Conversation]:
    """Says the first chunk of so many tasks and not the second, as no honest client does."""
    conversations = [await stack.enter_async_context(session.converse()) for _ in range(many)]
    for conversation in conversations:
        session._stream._put(next(frames(conversation._number, WHOLE)))
    return conversations


async def test_who_announces_all_it_can_and_stalls_does_not_keep_another_from_its_answer(
    serving: Any, joining: Any
) -> None:
    transport, stalling = await serving(double, limits=Limits(held=32 * MIB))
    other = await joining(transport)
    async with AsyncExitStack() as stack:
        conversations = await begun(stalling, stack, 16)
        with pytest.raises(Refused) as refused:
            async with asyncio.timeout(20):
                await conversations[-1].hear()
        assert refused.value.reason is Refusal.BUSY
        assert (await other.ask(WHOLE, 20.0)).tensors["y"][0] == 2.0


async def test_room_of_tasks_that_stall_is_given_back_and_their_client_is_told(serving: Any) -> None:
    _, session = await serving(double, limits=Limits(held=2 * MIB, silence=0.2))
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        (conversation,) = await begun(session, stack, 1)
        with pytest.raises(Refused, match="did not come in time") as refused:
            await conversation.hear()
        assert refused.value.reason is Refusal.BUSY
        session._stream._put(list(frames(conversation._number, WHOLE))[1])  # too late, and no harm
        assert (await session.ask(WHOLE, 20.0)).tensors["y"][0] == 2.0


async def test_room_is_kept_for_a_slow_client_as_long_as_something_comes(serving: Any) -> None:
    _, session = await serving(double, limits=Limits(silence=2.0))
    slow = Task("double", DIGEST, {"x": torch.ones(6 * MIB >> 2)})
    async with asyncio.timeout(60), session.converse() as conversation:
        for frame in frames(conversation._number, slow):
            session._stream._put(frame)
            await asyncio.sleep(0.4)  # 6 chunks: longer than the silence that is borne
        heard = await conversation.hear()
    assert isinstance(heard, Output)


async def test_nobody_keeps_room_for_ever_by_sending_a_little_of_a_task_now_and_then(serving: Any) -> None:
    _, session = await serving(double, limits=Limits(arrival=0.5))
    trickled = Task("double", DIGEST, {"x": torch.ones(2 * MIB)})
    async with asyncio.timeout(20), session.converse() as conversation:
        chunks = frames(conversation._number, trickled)
        hearing = asyncio.ensure_future(conversation.hear())
        while not hearing.done():
            session._stream._put(next(chunks))
            await asyncio.wait({hearing}, timeout=0.2)
        with pytest.raises(Refused, match="did not come in time"):
            await hearing
