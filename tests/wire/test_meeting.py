"""What host and joiner say to one another has bounds, and a first look says why a host is not there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal, Refused, Unreachable, UserError
from decentral.wire.authority import Authority
from decentral.wire.certificate import CLOCK_SKEW
from decentral.wire.meeting import MAX_SAID, Talk, _host_of, handlers, knocked, look_at, meeting
from decentral.wire.messages import PROTOCOL_VERSION
from decentral.wire.v1 import meeting_pb2 as pb

SKEW = CLOCK_SKEW.total_seconds()


def knock(**changed: object) -> pb.JoinerSays:
    said = {"protocol": PROTOCOL_VERSION, "csr": b"csr", "token": bytes(32), "address": ":7000", "time": time.time()}
    return pb.JoinerSays(knock=pb.Knock(**{**said, **changed}))


def reason(**changed: object) -> Refusal:
    with pytest.raises(Malformed) as malformed:
        knocked(knock(**changed))
    return malformed.value.reason


def test_a_knock_within_its_bounds_is_heard():
    assert knocked(knock()).address == ":7000"
    assert knocked(knock(certificate=b"certificate", token=b"")).token == b""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, Refusal.PROTOCOL_VERSION),
        ({"protocol": 0}, Refusal.PROTOCOL_VERSION),
        ({"csr": bytes(4097)}, Refusal.TOO_LARGE),
        ({"certificate": bytes(4097)}, Refusal.TOO_LARGE),
        ({"address": "a" * 256}, Refusal.TOO_LARGE),
        ({"version": "1" * 65}, Refusal.TOO_LARGE),
        ({"token": bytes(31)}, Refusal.TOKEN),
        ({"token": bytes(33)}, Refusal.TOKEN),
        ({"time": float("nan")}, Refusal.CLOCK),
        ({"time": float("inf")}, Refusal.CLOCK),
    ],
)
def test_a_knock_beyond_them_is_refused(changed, why):
    assert reason(**changed) is why


def test_a_knock_without_grounds_is_refused():
    with pytest.raises(Malformed) as malformed:
        knocked(pb.JoinerSays(knock=pb.Knock(protocol=PROTOCOL_VERSION, time=time.time())))
    assert malformed.value.reason is Refusal.TOKEN


@given(st.floats(-10 * SKEW, 10 * SKEW).filter(lambda apart: abs(abs(apart) - SKEW) > 5.0))
def test_clocks_may_differ_as_far_as_certificates_allow(apart):
    if abs(apart) < SKEW:
        assert knocked(knock(time=time.time() + apart))
    else:
        assert reason(time=time.time() + apart) is Refusal.CLOCK


@given(st.binary(max_size=200))
async def test_what_is_no_message_is_refused_and_ends_nothing_else(data):
    async def read() -> bytes:
        return data

    talk = Talk(read, lambda data: asyncio.sleep(0), pb.JoinerSays, MAX_SAID)
    try:
        message = await talk.hear("knock", deadline=1.0)
    except Malformed as error:
        assert error.reason is Refusal.MALFORMED
    else:
        assert message.WhichOneof("said") == "knock"


async def test_what_is_too_large_or_never_comes_is_said():
    async def much() -> bytes:
        return bytes(MAX_SAID + 1)

    async def nothing() -> bytes:
        await asyncio.sleep(60.0)
        return b""

    for read, expected in ((much, Malformed), (nothing, Unreachable)):
        with pytest.raises(expected):
            await Talk(read, lambda data: asyncio.sleep(0), pb.JoinerSays, MAX_SAID).hear("knock", deadline=0.05)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.2:5342", "10.0.0.2"),
        ("ipv6:%5Bfd00::2%5D:5342", "fd00::2"),
        ("ipv6:[::ffff:10.0.0.2]:5342", "10.0.0.2"),
    ],
)
def test_where_a_call_came_from_is_read_from_grpc_s_name_of_it(peer, host):
    assert _host_of(peer) == host


@contextlib.asynccontextmanager
async def hosted(authority: Authority, receive) -> AsyncIterator[str]:
    async with authority.serve("127.0.0.1:0", beside=(handlers(receive),)) as address:
        yield address


async def test_both_speak_in_turn_and_each_hears_the_end_of_the_other(authority):
    heard: list[object] = []

    async def receive(talk: Talk) -> None:
        heard.append((await talk.hear("knock", deadline=5.0)).knock.address)
        await talk.say(pb.HostSays(start=pb.Start()))
        heard.append(await talk.hear(deadline=5.0))

    async with hosted(authority, receive) as address:
        await look_at(address, authority.pem)
        async with meeting(address, authority.pem) as talk:
            await talk.say(knock())
            assert (await talk.hear("start", deadline=5.0)).WhichOneof("said") == "start"
    assert heard == [":7000", None]


async def test_a_refusal_reaches_the_joiner_with_its_reason(authority):
    async def receive(talk: Talk) -> None:
        await talk.hear("knock", deadline=5.0)
        raise Malformed(Refusal.FULL, "all 3 seats are taken")

    async with hosted(authority, receive) as address:
        with pytest.raises(Refused) as refused:
            async with meeting(address, authority.pem) as talk:
                await talk.say(knock())
                await talk.hear("seat", deadline=5.0)
    assert (refused.value.reason, refused.value.detail) == (Refusal.FULL, "all 3 seats are taken")


async def test_an_authority_that_lets_nobody_join_says_what_does(authority):
    async with authority.serve("127.0.0.1:0") as address:
        with pytest.raises(UserError, match="decentral host"):
            async with meeting(address, authority.pem) as talk:
                await talk.say(knock())
                await talk.hear("seat", deadline=5.0)


async def test_why_no_host_is_there_is_told_apart(authority, foreign_authority, monkeypatch, tmp_path):
    async def words(address: str) -> str:
        with pytest.raises(UserError) as refused:
            await look_at(address, authority.pem)
        return str(refused.value)

    async with foreign_authority.serve("127.0.0.1:0") as address:
        assert "another authority" in await words(address)
    assert "nobody listens" in await words(address)
    assert "no host of that name" in await words("no-such-host.invalid:6999")

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        assert "something else listens" in await words(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.setattr("decentral.wire.meeting.LOOKING", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "firewall" in await words(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(("skew", "words"), [(-86400, "not valid yet"), (86400 * 5000, "expired")])
async def test_a_clock_that_is_wrong_is_named(tmp_path, monkeypatch, skew, words):
    """The host's certificates are made a day too late, or end before now."""
    if skew > 0:
        from datetime import UTC, datetime

        class Past(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(UTC) - timedelta(seconds=skew)

        monkeypatch.setattr("decentral.wire.issuing.datetime", Past)
    else:
        monkeypatch.setattr("decentral.wire.issuing.CLOCK_SKEW", timedelta(seconds=skew))
    authority = Authority.create(tmp_path / "authority")
    async with authority.serve("127.0.0.1:0") as address:
        with pytest.raises(UserError, match=words):
            await look_at(address, authority.pem)
