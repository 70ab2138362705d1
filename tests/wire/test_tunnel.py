"""A way through a gateway: an answer of any form leads on, or is an error that names the gateway and not the peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from decentral.errors import Barred, Unreachable, UserError
from decentral.wire.tunnel import MOST_HEAD, MOST_REASON, open_tunnel

PEER = "peer.invalid:7000"
DEADLINE = 20.0


@asynccontextmanager
async def gateway(says: bytes, asked: list[bytes] | None = None, stay: bool = False) -> AsyncIterator[str]:
    """Says the same to everybody."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asked is not None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(says)
        if stay:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        over.set()
        server.close()


async def test_it_asks_for_the_peer_and_then_says_what_the_caller_says() -> None:
    asked: list[bytes] = []
    async with asyncio.timeout(DEADLINE), gateway(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nfrom the peer", asked) as via:
        reader, writer = await open_tunnel(via, PEER)
        assert asked == [f"CONNECT {PEER} HTTP/1.1\r\nHost: {PEER}\r\n\r\n".encode()]
        assert await reader.read() == b"from the peer"
        writer.close()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\nno node of this cluster\n", "403 no node of this cluster"),
        (b"HTTP/1.0 503 \r\n\r\nfull", "503 full"),
        (b"HTTP/1.1 407\r\n\r\n", "407"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n\x1b[31mred\x00", r"403 \[31mred"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer to CONNECT"),
        (b"HTTP/2 200\r\n\r\n", "no answer to CONNECT"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "no answer to CONNECT"),
        (b"HTTP/1.1 200 OK\r\n", "leads nowhere"),
        (b"", "leads nowhere"),
        (b"x" * (3 * MOST_HEAD), "leads nowhere"),
    ],
)
async def test_a_gateway_that_leads_nowhere_is_named(says: bytes, why: str) -> None:
    async with asyncio.timeout(DEADLINE), gateway(says, []) as via:
        with pytest.raises(Barred, match=f"the gateway at {via}: .*{why}"):
            await open_tunnel(via, PEER)


async def test_a_gateway_that_is_not_there_is_named() -> None:
    async with gateway(b"") as via:
        pass
    with pytest.raises(Barred, match=f"the gateway at {via}: "):
        await open_tunnel(via, PEER)


@pytest.mark.parametrize("code", ["502 Bad Gateway", "504 Gateway Timeout"])
async def test_a_peer_that_does_not_answer_the_gateway_is_not_the_gateways_fault(code: str) -> None:
    async with asyncio.timeout(DEADLINE), gateway(f"HTTP/1.1 {code}\r\n\r\nrefused".encode(), []) as via:
        with pytest.raises(Unreachable, match=f"the gateway at {via}: {code[:3]} refused") as raised:
            await open_tunnel(via, PEER)
    assert not isinstance(raised.value, Barred)


async def test_no_more_is_read_of_a_reason_than_is_told() -> None:
    said = b"HTTP/1.1 403 Forbidden\r\n\r\n" + b"a" * (2 * MOST_REASON)
    async with asyncio.timeout(DEADLINE), gateway(said, [], stay=True) as via:
        with pytest.raises(Barred) as raised:
            await open_tunnel(via, PEER)
    assert str(raised.value).endswith("403 " + "a" * MOST_REASON)


@pytest.mark.parametrize("via", ["nowhere", "http://127.0.0.1", "127.0.0.1:99999"])
async def test_what_is_no_address_is_said_to_be_none(via: str) -> None:
    with pytest.raises(UserError, match="host:port"):
        await open_tunnel(via, PEER)
