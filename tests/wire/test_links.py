"""Connections that lead nowhere any more: who is silent is told apart from who is gone, and is dialled anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from decentral.errors import Silent, Unreachable
from decentral.wire import links
from decentral.wire.addresses import split_address
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.messages import Ping, Pong

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")


class Road:
    """TCP to a peer, which lets bytes through or holds them; what was held never comes."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.dialled = 0
        self._lost: set[int] = set()

    def block(self) -> None:
        """As a partition does: connections stay, and nothing passes."""
        self.open.clear()
        self._lost |= set(range(self.dialled))

    @contextlib.asynccontextmanager
    async def to(self, address: str) -> AsyncIterator[str]:
        async def pass_on(number: int, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    await self.open.wait()
                    if number not in self._lost:
                        target.write(data)
                        await target.drain()
            target.close()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number, self.dialled = self.dialled, self.dialled + 1
            await self.open.wait()
            there, back = await asyncio.open_connection(*split_address(address))
            await asyncio.gather(pass_on(number, reader, back), pass_on(number, there, writer))

        async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def peers(authority: Authority, certify: Callable[..., Credentials]) -> AsyncIterator[tuple]:
    """Two of them; the first answers pings."""
    async with (
        GrpcTransport.serve("127.0.0.1:0", ALICE, certify(authority, ALICE)) as alice,
        GrpcTransport.serve("127.0.0.1:0", BOB, certify(authority, BOB)) as bob,
        asyncio.TaskGroup() as tasks,
    ):

        async def answer() -> None:
            async for envelope in alice.inbox(Ping):
                envelope.answer(Pong(7))

        answering = tasks.create_task(answer())
        yield alice, bob
        answering.cancel()


async def test_a_connection_that_leads_nowhere_any_more_is_replaced_and_the_peer_found_again(
    authority, certify, monkeypatch
):
    monkeypatch.setattr(links, "HALF_OPEN", 0.2)
    road = Road()
    async with peers(authority, certify) as (alice, bob), road.to(alice.address) as address:
        bob.introduce(alice.id, address)
        assert await bob.request(alice.id, Ping(1), 10.0) == Pong(7)
        road.block()
        with pytest.raises(Silent):
            await bob.request(alice.id, Ping(2), 0.5)
        road.open.set()
        before = road.dialled
        assert await bob.request(alice.id, Ping(3), 10.0) == Pong(7)
        assert road.dialled > before, "over the old connection nothing would have come"


async def test_a_short_silence_leaves_a_connection_as_it_is(authority, certify):
    road = Road()
    async with peers(authority, certify) as (alice, bob), road.to(alice.address) as address:
        bob.introduce(alice.id, address)
        await bob.request(alice.id, Ping(1), 10.0)
        before = road.dialled
        road.open.clear()
        with pytest.raises(Silent):
            await bob.request(alice.id, Ping(2), 0.2)
        road.open.set()
        assert await bob.request(alice.id, Ping(3), 10.0) == Pong(7)
        assert road.dialled == before


async def test_who_is_gone_and_who_is_somebody_else_is_not_silent(authority, certify):
    async with peers(authority, certify) as (alice, bob):
        bob.introduce(alice.id, alice.address)
        bob.introduce(Identity.from_seed(b"carol").id, alice.address)
        await alice.close()
        for other in (alice.id, Identity.from_seed(b"carol").id):
            with pytest.raises(Unreachable) as gone:
                await bob.request(other, Ping(1), 10.0)
            assert not isinstance(gone.value, Silent)


async def test_where_this_machine_knows_no_way_nothing_has_come_back(authority, certify, monkeypatch):
    async def dial(*address: object, **options: object) -> None:
        raise OSError(next(iter(links.NO_WAY)), "no way")

    async with peers(authority, certify) as (alice, bob):
        bob.introduce(alice.id, alice.address)
        monkeypatch.setattr(asyncio, "open_connection", dial)
        with pytest.raises(Silent):
            await bob.request(alice.id, Ping(1), 10.0)


@pytest.mark.parametrize(
    "address", ["nowhere", "two..dots:7000", f"{'a' * 64}:7000", "nul\0:7000", "[::1:7000", ":7000"]
)
async def test_an_address_that_is_none_is_the_fault_of_whoever_said_it_and_a_failed_call(
    authority: Authority, certify: Callable[..., Credentials], address: str
) -> None:
    alice = links.Links(certify(authority, ALICE))
    alice.introduce(BOB.id, address)  # as a signed record of a peer that was let in may have it
    with pytest.raises(Unreachable):
        await alice.call(BOB.id, lambda *_: asyncio.sleep(0), 5.0)
    await alice.close()
