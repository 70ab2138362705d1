"""Who is at an address: the peer itself, and nobody who only says so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from decentral.errors import Malformed, Refusal
from decentral.wire import reachability
from decentral.wire.identity import Identity
from decentral.wire.reachability import ANSWER_BYTES, NONCE_BYTES, answering, reach

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")


@contextlib.asynccontextmanager
async def serving(answer: bytes | None, **options: object) -> AsyncIterator[str]:
    """Somebody else: says those bytes, or nothing, to whoever comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            if answer is None:
                await reader.read()
            else:
                await reader.readexactly(NONCE_BYTES)
                writer.write(answer)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, **options) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def refused(address: str, patience: float = 5.0) -> str:
    with pytest.raises(Malformed) as malformed:
        await reach(address, ALICE.id, patience)
    assert malformed.value.reason is Refusal.ADDRESS
    return malformed.value.detail


async def test_a_peer_is_reached_as_often_as_it_is_asked():
    async with answering(ALICE, "127.0.0.1", 0) as port:
        await reach(f"127.0.0.1:{port}", ALICE.id)
        await reach(f"localhost:{port}", ALICE.id)


async def test_nobody_and_what_is_no_address_is_told_apart_from_another_peer():
    async with answering(BOB, "127.0.0.1", 0) as port:
        assert "another peer" in await refused(f"127.0.0.1:{port}")
    assert "nobody listens" in await refused(f"127.0.0.1:{port}")
    assert "not an address" in await refused("127.0.0.1")
    assert "no host of that name" in await refused("no-such-host.invalid:7000")
    for host in ("two..dots", "a" * 64, "nul\0"):  # which the resolver itself does not take
        assert "cannot be reached" in await refused(f"{host}:7000")


async def test_who_holds_no_key_of_the_peer_is_found_out():
    context, digest = reachability._own_certificate()
    old = ALICE.public_key + ALICE.sign(reachability.PURPOSE, bytes(NONCE_BYTES) + digest)
    for answer in (old, bytes(ANSWER_BYTES), b""):
        async with serving(answer, ssl=context) as address:
            assert "somebody else" in await refused(address)
    async with serving(b"HTTP/1.1 400\r\n\r\n") as address:
        assert "something else" in await refused(address)


async def test_a_signature_counts_for_the_certificate_that_was_shown_alone():
    """Who passes the nonce on, and shows a certificate of its own, gains nothing by it."""
    context, _ = reachability._own_certificate()
    async with answering(ALICE, "127.0.0.1", 0) as port:

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            import ssl

            nonce = await reader.readexactly(NONCE_BYTES)
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            asked, telling = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            telling.write(nonce)
            writer.write(await asked.readexactly(ANSWER_BYTES))
            await writer.drain()
            telling.close()

        async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as between:
            assert "somebody else" in await refused(f"127.0.0.1:{between.sockets[0].getsockname()[1]}")


async def test_who_is_silent_is_waited_for_no_longer_than_was_said():
    context, _ = reachability._own_certificate()
    async with serving(None, ssl=context) as address:
        assert "nothing answers" in await refused(address, patience=0.2)
    with socket.socket() as unanswered:  # the kernel takes the connection, and nobody shakes hands
        unanswered.bind(("127.0.0.1", 0))
        unanswered.listen()
        assert "nothing answers" in await refused(f"127.0.0.1:{unanswered.getsockname()[1]}", patience=0.2)


async def test_a_port_that_is_taken_is_the_caller_s_to_see():
    async with answering(ALICE, "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="in use"):
            async with answering(BOB, "127.0.0.1", port):
                raise AssertionError("two answer at one port")
        await reach(f"127.0.0.1:{port}", ALICE.id)
