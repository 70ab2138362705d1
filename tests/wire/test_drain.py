"""A server that drains answers what it has begun, refuses what is new, and says so before it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from grpc_health.v1 import health_pb2

from decentral.errors import Refusal, Refused
from decentral.wire import rpc
from decentral.wire.conversation import Output, Task
from decentral.wire.links import Links
from decentral.wire.sessions import Client, open_session

MANY = 64
GIVEN = torch.arange(3.0)
TASK = Task("part", bytes(32), {"x": GIVEN})


class Slow:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.begun, self.going = 0, asyncio.Event()

    async def __call__(self, task: Task, client: Client) -> None:
        self.begun += 1
        await self.going.wait()
        await client.say(Output(task.tensors))

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(20.0):
            while self.begun < count:  # noqa: ASYNC110  the server counts
                await asyncio.sleep(0.01)


@pytest.fixture
def links(authority: Any, certify: Any) -> Links:
    from decentral.wire.identity import Identity

    return Links(certify(authority, Identity.generate()))


async def health(links: Links, server: Any) -> int:
    async def ask(channel: Any, patience: asyncio.Timeout) -> bytes:
        return bytes(await channel.unary_unary(f"/{rpc.HEALTH}/Check", None, None)(b""))

    return int(health_pb2.HealthCheckResponse.FromString(await links.call(server.id, ask, 20.0)).status)


async def test_of_64_requests_in_flight_none_is_lost_and_nothing_new_is_taken(serving: Any, links: Links) -> None:
    slow = Slow()
    server, session = await serving(slow)
    links.introduce(server.id, server.address)
    assert await health(links, server) == health_pb2.HealthCheckResponse.SERVING
    asked = [asyncio.create_task(session.ask(TASK, 30.0)) for _ in range(MANY)]
    await slow.reached(MANY)

    draining = asyncio.create_task(server.drain(20.0))
    await asyncio.sleep(0.01)
    assert await health(links, server) == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(Refused) as refused:
        await session.ask(TASK, 20.0)
    assert refused.value.reason is Refusal.DRAINING
    with pytest.raises(Refused) as refused:
        async with open_session(links, server.id):
            raise AssertionError("a session was opened")
    assert refused.value.reason is Refusal.DRAINING
    assert not draining.done()

    slow.going.set()
    assert all(torch.equal(output.tensors["x"], GIVEN) for output in await asyncio.gather(*asked))
    assert await draining and slow.begun == MANY
    await links.close()


async def test_a_server_does_not_wait_for_ever(serving: Any) -> None:
    slow = Slow()
    server, session = await serving(slow)
    asked = asyncio.create_task(session.ask(TASK, 30.0))
    await slow.reached(1)
    assert not await server.drain(0.2)
    slow.going.set()
    await asked


async def test_where_sessions_count_those_that_are_open_go_on_until_clients_end_them(
    serving: Any, links: Links
) -> None:
    slow = Slow()
    slow.going.set()
    server, _ = await serving(slow)
    links.introduce(server.id, server.address)
    async with open_session(links, server.id) as session:
        draining = asyncio.create_task(server.drain(20.0, sessions=True))
        await asyncio.sleep(0.3)
        assert torch.equal((await session.ask(TASK, 20.0)).tensors["x"], GIVEN)
        with pytest.raises(Refused):
            async with open_session(links, server.id):
                raise AssertionError("a session was opened")
        assert not draining.done()
    draining.cancel()
    await links.close()


async def test_an_idle_server_has_drained_at_once(serving: Any) -> None:
    server, _ = await serving(Slow())
    assert await server.drain(20.0)
