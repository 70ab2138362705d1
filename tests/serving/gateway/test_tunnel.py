"""A gateway that cannot read leads clients to the nodes of its cluster, and nobody anywhere else; it bears with
callers and nodes that do nothing, or too little."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.serving.gateway.tunnel import CHUNK, Refusal, target_of
from decentral.trust.anchors import FILE, Anchor, Anchors
from decentral.wire.authority import Authority
from decentral.wire.identity import Identity
from tests.serving.gateway.conftest import DEADLINE, connect


async def until(true: Callable[[], Any]) -> None:
    """Looks again and again: what a gateway has noticed, it tells nobody."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.fixture
async def node(tmp_path: Path, authority: Authority) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """`await node(answer)`: the address of a node of the cluster in `tmp_path` that does this with a connection."""
    servers, peers = [], []

    async def start(answer: Callable[..., Awaitable[None]]) -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        servers.append(server)
        address = "{}:{}".format(*server.sockets[0].getsockname())
        peers.append(Anchor(f"node-{len(peers)}", Identity.generate().id, address))
        Anchors(authority.pem, tuple(peers)).save(tmp_path / FILE)
        return address

    yield start
    for server in servers:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes no byte and says none."""
    writer.transport.pause_reading()


# ---- where it leads ------------------------------------------------------------------------------------------------


async def test_it_leads_to_nodes_and_nowhere_else(tmp_path: Path, node: Any, gateway: Any) -> None:
    known = await node(echo)
    came = asyncio.Event()

    async def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()

    elsewhere = await asyncio.start_server(arrived, "127.0.0.1", 0)
    port, passing = elsewhere.sockets[0].getsockname()[1], gateway(tmp_path)
    for target in (f"127.0.0.1:{port}", f"localhost:{known.rpartition(':')[2]}", "[::1]:22", "192.0.2.1:443"):
        status, why = await passing.refusal(connect(target))
        assert (status, why) == (403, f"{target} is no node of this cluster")
    assert not came.is_set() and passing.tunnels.open == 0
    elsewhere.close()
    reader, writer = await passing.lead(known)
    writer.write(b"to the node")
    assert await reader.readexactly(11) == b"to the node"
    writer.close()


async def test_nodes_that_come_later_are_led_to_and_a_trust_file_that_cannot_be_read_leads_nowhere(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    first = await node(echo)
    passing = gateway(tmp_path)
    second = await node(echo)
    for address in (first, second):
        (await passing.lead(address))[1].close()
    (tmp_path / FILE).write_text("no trust file")
    assert (await passing.refusal(connect(first)))[0] == 503


async def test_a_node_that_does_not_listen_is_named(tmp_path: Path, node: Any, gateway: Any, authority: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*taken.getsockname())
        Anchors(authority.pem, (Anchor("node", Identity.generate().id, address),)).save(tmp_path / FILE)
        status, why = await gateway(tmp_path).refusal(connect(address))
    assert status == 502 and address in why


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"CONNECT\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:1 HTTP/2\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1 \r\n\r\n", 400),
        (b"CONNECT  127.0.0.1:1 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:70000 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT https://127.0.0.1:1/ HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nA: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", 405),
        (b"POST http://127.0.0.1:1/ HTTP/1.1\r\nHost: here\r\n\r\n", 405),
    ],
)
async def test_what_is_no_request_for_a_tunnel_is_refused(
    tmp_path: Path, node: Any, gateway: Any, said: bytes, status: int
) -> None:
    await node(echo)
    assert (await gateway(tmp_path).refusal(said))[0] == status


async def test_a_request_without_end_is_refused_when_it_is_too_long(tmp_path: Path, node: Any, gateway: Any) -> None:
    await node(echo)
    reader, writer = await gateway(tmp_path).ask(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n" + b"A: b\r\n" * CHUNK)
    try:
        said = await reader.read()
    except ConnectionResetError:  # there was more than it has read
        said = b""
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
    writer.transport.abort()


@given(head=st.binary(max_size=200) | st.from_regex(rb"CONNECT [!-~]{1,40} HTTP/1\.1(\r\n[A-Za-z-]+:[ -~]{0,9})*"))
def test_every_head_has_a_target_or_a_reason(head: bytes) -> None:
    try:
        host, port = target_of(head + b"\r\n\r\n")
    except Refusal as refusal:
        assert refusal.status in (400, 405) and refusal.encoded().endswith(b"\n")
    else:
        assert head.startswith(b"CONNECT ") and host and 0 <= port <= 65535


# ---- bounds --------------------------------------------------------------------------------------------------------


async def test_beyond_the_bound_callers_are_told_and_a_tunnel_that_ends_makes_room(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    address = await node(echo)
    passing = gateway(tmp_path, tunnels=2)
    held = [await passing.lead(address) for _ in range(2)]
    assert (await passing.refusal(connect(address)))[0] == 503
    held[0][1].write_eof()
    assert await held[0][0].read() == b""
    await until(lambda: passing.tunnels.open == 1)
    held.append(await passing.lead(address))
    for _, writer in held:
        writer.close()


async def test_callers_who_do_not_say_where_to_keep_few_places_and_not_for_long(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    address = await node(echo)
    passing = gateway(tmp_path, asking=1, head=DEADLINE)
    _, silent = await passing.ask(b"CONNECT")
    await until(lambda: passing.tunnels._asking)
    assert (await passing.refusal(b""))[0] == 503
    silent.close()
    await until(lambda: not passing.tunnels._asking)
    (await passing.lead(address))[1].close()
    assert (await gateway(tmp_path, head=0.05).refusal(b"CONNECT"))[0] == 408


async def test_a_tunnel_through_which_nothing_passes_is_closed_and_one_with_signs_of_life_is_not(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    address = await node(echo)
    passing = gateway(tmp_path, idle=2.0)
    quiet, lively = await passing.lead(address), await passing.lead(address)
    reading, signs = asyncio.create_task(quiet[0].read()), 0
    while not reading.done() or signs < 10:
        lively[1].write(b".")
        assert await lively[0].readexactly(1) == b"."
        await asyncio.sleep(0.05)
        signs += 1
    assert reading.exception() is not None or reading.result() == b""
    for _, writer in (quiet, lively):
        writer.transport.abort()


async def test_who_takes_nothing_holds_back_the_other_end_and_is_closed_by_the_deadline(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    """As many bytes go in as the kernel and a few chunks hold, not all."""
    address = await node(nothing)
    passing = gateway(tmp_path, stalled=0.5)
    _, writer = await passing.lead(address)
    sent, more = 0, b"x" * (1 << 20)
    with pytest.raises(ConnectionError):
        while sent < 1 << 30:
            writer.write(more)
            await writer.drain()
            sent += len(more)
    assert sent < 1 << 26
    await until(lambda: not passing.tunnels.open)


async def test_a_caller_who_takes_nothing_is_closed_by_the_deadline(tmp_path: Path, node: Any, gateway: Any) -> None:
    sent, broke = 0, asyncio.Event()

    async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while sent < 1 << 30:
                writer.write(b"x" * (1 << 20))
                await writer.drain()
                sent += 1 << 20
        except ConnectionError:
            broke.set()

    address = await node(pours)
    _, writer = await gateway(tmp_path, stalled=0.5).ask(connect(address))
    writer.transport.pause_reading()
    await broke.wait()
    assert sent < 1 << 26
    writer.transport.abort()


async def test_whatever_is_said_arrives_as_it_was_said_both_ways_and_after_one_end_has_ended(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    said = bytes(torch.randint(256, (8 << 20,), generator=torch.Generator().manual_seed(1)).tolist())

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await reader.read()
        writer.write(whole[::-1])
        writer.close()

    for answer, wanted in ((echo, said), (mirror, said[::-1])):
        address = await node(answer)
        reader, writer = await gateway(tmp_path).lead(address)
        reading = asyncio.create_task(reader.read())
        writer.write(said)
        writer.write_eof()
        assert await reading == wanted
        writer.close()


async def test_who_goes_on_after_the_other_end_has_ended_has_a_deadline(
    tmp_path: Path, node: Any, gateway: Any
) -> None:
    address = await node(ends)
    _, writer = await gateway(tmp_path, ending=0.2).lead(address)
    with pytest.raises(ConnectionError):
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Has nothing to say, and hears all."""
    writer.write_eof()
    while await reader.read(CHUNK):
        continue


async def test_connections_that_are_reset_are_no_news(tmp_path: Path, node: Any, gateway: Any) -> None:
    """It goes on leading others, and reports nothing."""
    news: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: news.append(context))
    address = await node(resets)
    passing = gateway(tmp_path)
    for _ in range(20):
        reader, writer = await passing.lead(address)
        writer.write(b"." * CHUNK)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.transport.abort()
    await until(lambda: not passing.tunnels.open)
    gc.collect()
    assert news == []


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hangs up without a goodbye."""
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_all_tunnels_end_with_the_gateway(tmp_path: Path, node: Any, gateway: Any) -> None:
    address = await node(echo)
    passing = gateway(tmp_path)
    reader, writer = await passing.lead(address)
    await passing.end()
    with suppress(ConnectionError):
        assert await reader.read() == b""
    with pytest.raises(ConnectionError):
        await passing.ask(b"")
    writer.close()
