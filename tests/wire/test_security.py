"""Nobody without a valid certificate gets an answer, nobody can be somebody else, and no bytes bring a peer down."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import torch
from cryptography import x509
from grpc_health.v1 import health_pb2

from decentral.errors import Refusal, Refused, Unreachable
from decentral.wire import codec, rpc
from decentral.wire.addresses import split_address
from decentral.wire.authority import Authority
from decentral.wire.certificate import BINDING_OID, Credentials, bind, host_name, new_key, private_pem
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.limits import CHUNK_BYTES, MAX_SEALED, Limits
from decentral.wire.messages import (
    Join,
    Leave,
    Membership,
    MembershipStatus,
    Message,
    Model,
    Ping,
    Pong,
    Progress,
    Resend,
)
from decentral.wire.rpc import EXCHANGE, HEALTH, METHODS, PEER
from decentral.wire.tensors import ModelDecoder, encoded

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
RECORD = ALICE.record(MembershipStatus.JOIN, 1, "127.0.0.1:7000", 2)
LETTERS: dict[str, codec.Letter] = {
    "Join": Join(RECORD, "recipe", "schema"),
    "Ping": Ping(3),
    "Exchange": Membership((RECORD,)),
    "Progress": Progress(3),
    "Resend": Resend(3),
    "Leave": Leave(ALICE.record(MembershipStatus.LEAVE, 2, "127.0.0.1:7000", 9)),
}
PUSH = f"/{EXCHANGE}/Push"
EVERY_RPC: dict[str, list[bytes]] = {
    **{f"/{PEER}/{name}": [codec.encode_letter(letter, only_deliver=True)] for name, letter in LETTERS.items()},
    PUSH: list(encoded(Model(1, {"a": torch.ones(9)})).frames()),
    f"/{HEALTH}/Check": [health_pb2.HealthCheckRequest().SerializeToString()],
}


@pytest.fixture
async def bob(authority: Authority, certify: Callable[..., Credentials]) -> AsyncIterator[GrpcTransport]:
    """A peer under attack."""
    limits = Limits(model_bytes=4 * CHUNK_BYTES, pending=4)
    async with GrpcTransport.serve("127.0.0.1:0", BOB, certify(authority, BOB), limits=limits) as transport:
        yield transport


@asynccontextmanager
async def dial(transport: GrpcTransport, credentials: Credentials | None, trusted: bytes) -> AsyncIterator[Any]:
    """A client that is not ours: it sends any bytes to any method."""
    shown = (credentials.key, credentials.certificate) if credentials else (None, None)
    tls = grpc.ssl_channel_credentials(trusted, *shown)
    options = [*rpc.CONNECTION_OPTIONS, ("grpc.ssl_target_name_override", host_name(BOB.id))]
    async with grpc.aio.secure_channel(transport.address, tls, options) as channel:
        yield channel


async def call(
    channel: grpc.aio.Channel, method: str, messages: list[bytes], deadline: float = 20.0
) -> grpc.StatusCode | Refusal:
    """OK, the reason of a refusal, or the status of a failure."""
    try:
        if method == PUSH:
            await channel.stream_unary(method, None, None)(iter(messages), timeout=deadline)
        else:
            await channel.unary_unary(method, None, None)(messages[0], timeout=deadline)
    except grpc.aio.AioRpcError as error:
        failure = rpc.failure(error, "bob")
        return failure.reason if isinstance(failure, Refused) else error.code()
    return grpc.StatusCode.OK


def test_the_list_of_calls_is_complete() -> None:
    assert {name.rpartition("/")[2] for name in EVERY_RPC} == {*METHODS.values(), "Push", "Check"}


@pytest.mark.parametrize("method", EVERY_RPC)
async def test_every_call_needs_a_valid_certificate_of_the_authority(
    method: str,
    bob: GrpcTransport,
    authority: Authority,
    foreign_authority: Authority,
    certify: Callable[..., Credentials],
) -> None:
    honest = certify(authority, ALICE)
    stolen = Credentials(honest.certificate, private_pem(new_key()), honest.authority)
    async with dial(bob, honest, authority.pem) as channel:
        assert await call(channel, method, EVERY_RPC[method]) is grpc.StatusCode.OK
    for credentials in (
        None,
        certify(foreign_authority, ALICE),
        certify(authority, ALICE, timedelta(seconds=-1)),
        stolen,
    ):
        async with dial(bob, credentials, authority.pem) as channel:
            assert await call(channel, method, EVERY_RPC[method]) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("method", EVERY_RPC)
async def test_a_connection_that_outlives_its_certificate_is_refused(
    method: str,
    bob: GrpcTransport,
    authority: Authority,
    certify: Callable[..., Credentials],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with dial(bob, certify(authority, ALICE, timedelta(hours=1)), authority.pem) as channel:
        assert await call(channel, method, EVERY_RPC[method]) is grpc.StatusCode.OK
        later = time.time() + 7200.0
        monkeypatch.setattr("decentral.wire.certificate.time.time", lambda: later)
        assert await call(channel, method, EVERY_RPC[method]) is Refusal.EXPIRED


def lying(authority: Authority, name: str, key: Any, *extensions: x509.ExtensionType) -> Credentials:
    """What an authority can issue if it wants: a certificate in anybody's name, without that peer's consent."""
    peer = Identity.from_seed(name.encode())
    certificate = authority.register.voice.leaf(
        peer.id, host_name(peer.id), key.public_key(), timedelta(days=1), *extensions
    )
    return Credentials(ssl.DER_cert_to_PEM_cert(certificate).encode(), private_pem(key), authority.pem)


@pytest.mark.parametrize("method", EVERY_RPC)
async def test_the_authority_cannot_make_a_client_pass_for_somebody(
    method: str, bob: GrpcTransport, authority: Authority
) -> None:
    key = new_key()
    until = time.time() + 3600.0
    stale = bind(ALICE, key.public_key(), time.time() - 1.0)
    forged = x509.UnrecognizedExtension(BINDING_OID, stale.value[:-64] + bytes(64))
    lies = {
        (): Refusal.SIGNATURE,
        (forged,): Refusal.SIGNATURE,
        (bind(BOB, key.public_key(), until),): Refusal.SIGNATURE,
        (bind(ALICE, new_key().public_key(), until),): Refusal.SIGNATURE,
        (stale,): Refusal.EXPIRED,
    }
    async with dial(bob, lying(authority, "alice", key, bind(ALICE, key.public_key(), until)), authority.pem) as honest:
        assert await call(honest, method, EVERY_RPC[method]) is grpc.StatusCode.OK
    for extensions, reason in lies.items():
        async with dial(bob, lying(authority, "alice", key, *extensions), authority.pem) as channel:
            assert await call(channel, method, EVERY_RPC[method]) is reason


class Impostor(GrpcTransport):
    """A peer that shows whatever certificate it was given."""

    def pretend(self, credentials: Credentials) -> None:
        self._credentials = credentials


async def test_a_client_speaks_only_to_the_identity_that_it_wants(
    authority: Authority, foreign_authority: Authority, certify: Callable[..., Credentials]
) -> None:
    carol, key = Identity.from_seed(b"carol"), new_key()
    async with (
        GrpcTransport.serve("127.0.0.1:0", ALICE, certify(authority, ALICE)) as alice,
        Impostor.serve("127.0.0.1:0", carol, certify(authority, carol)) as impostor,
    ):
        assert isinstance(impostor, Impostor)
        alice.introduce(carol.id, impostor.address)
        await alice.send(carol.id, Ping(0))
        alice.introduce(BOB.id, impostor.address)
        for credentials in (
            certify(authority, carol),
            certify(foreign_authority, BOB),
            certify(authority, BOB, timedelta(seconds=-1)),
            lying(authority, "bob", key),
            lying(authority, "bob", key, bind(carol, key.public_key(), time.time() + 3600.0)),
            lying(authority, "bob", key, bind(BOB, new_key().public_key(), time.time() + 3600.0)),
        ):
            impostor.pretend(credentials)
            with pytest.raises(Unreachable):
                await alice.send(BOB.id, Ping(0))
        impostor.pretend(certify(authority, BOB))
        await alice.send(BOB.id, Ping(0))  # it holds a key that Bob certified himself, so it speaks for Bob


async def test_a_new_tls_key_changes_nothing_for_the_others(
    authority: Authority, certify: Callable[..., Credentials]
) -> None:
    async with AsyncExitStack() as stack:
        alice, bob = [
            await stack.enter_async_context(GrpcTransport.serve("127.0.0.1:0", who, certify(authority, who)))
            for who in (ALICE, BOB)
        ]
        alice.introduce(bob.id, bob.address)
        await alice.send(bob.id, Ping(0))
        bob.rotate(certify(authority, BOB))
        await alice.send(bob.id, Ping(1))  # over the connection that stands
        alice.rotate(certify(authority, ALICE))
        await alice.send(bob.id, Ping(2))  # over a new one, on which both show their new keys
        inbox = bob.inbox(Ping)
        assert [((envelope := await anext(inbox)).sender, envelope.message) for _ in range(3)] == [
            (ALICE.id, Ping(number)) for number in range(3)
        ]


async def test_a_transfer_in_flight_survives_new_tls_keys_at_both_ends(
    authority: Authority, certify: Callable[..., Credentials], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: here several times what a call may be silent."""
    patience, frames = 1.0, 30
    feeding = ModelDecoder.feed
    fed: list[int] = []

    def slowly(decoder: ModelDecoder, frame: bytes) -> None:
        time.sleep(0.1)  # the receiver has a slow processor
        feeding(decoder, frame)
        fed.append(len(frame))

    monkeypatch.setattr(ModelDecoder, "feed", slowly)
    async with AsyncExitStack() as stack:
        alice, bob = [
            await stack.enter_async_context(
                GrpcTransport.serve("127.0.0.1:0", who, certify(authority, who), call_deadline=patience)
            )
            for who in (ALICE, BOB)
        ]
        alice.introduce(bob.id, bob.address)
        model = Model(1, {"weight": torch.randn(frames * CHUNK_BYTES // 4)})
        sending = asyncio.ensure_future(alice.send(bob.id, model))
        for _ in range(1000):
            if fed:
                break
            await asyncio.sleep(0.01)
        assert fed and not sending.done()
        for transport, who in ((alice, ALICE), (bob, BOB)):
            transport.rotate(certify(authority, who))
        await sending
        came = await anext(bob.inbox(Model))
    assert came.sender == ALICE.id and isinstance(came.message, Model)
    assert torch.equal(came.message.tensors["weight"], model.tensors["weight"])


async def test_calls_that_do_not_exist_are_not_answered(
    bob: GrpcTransport, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    async with dial(bob, certify(authority, ALICE), authority.pem) as channel:
        for method in (f"/{PEER}/Nothing", "/decentral.wire.v1.Authority/Enrol", f"/{HEALTH}/Watch", "nonsense"):
            assert await call(channel, method, [b""]) is grpc.StatusCode.UNIMPLEMENTED
        unknown = health_pb2.HealthCheckRequest(service="unknown").SerializeToString()
        assert await call(channel, f"/{HEALTH}/Check", [unknown]) is grpc.StatusCode.NOT_FOUND


async def test_a_message_beyond_the_limit_is_not_read(
    bob: GrpcTransport, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    async with dial(bob, certify(authority, ALICE), authority.pem) as channel:
        for method in EVERY_RPC:
            if method != PUSH:
                assert await call(channel, method, [bytes(MAX_SEALED + 1)]) is grpc.StatusCode.RESOURCE_EXHAUSTED
        pushed = await call(channel, PUSH, [bytes(MAX_SEALED + 1)])
        assert pushed is not grpc.StatusCode.OK


def mutated(messages: list[bytes], draw: random.Random) -> list[bytes]:
    """One to four changes: of bits, bytes, lengths, or of the order and number of messages."""
    messages = list(messages)
    for _ in range(draw.randint(1, 4)):
        index = draw.randrange(len(messages))
        message = bytearray(messages[index][: 1 << 16])
        start, size = draw.randrange(len(message) + 1), draw.choice([1, 1, 2, 8, 100])
        match draw.randrange(7):
            case 0:
                message[start : start + size] = draw.randbytes(size)
            case 1:
                del message[start : start + size]
            case 2:
                message[start:start] = draw.randbytes(size)
            case 3:
                message[start:start] = message[start : start + size] * draw.choice([1, 50])
            case 4 if message:
                message[start % len(message)] ^= 1 << draw.randrange(8)
            case 5:
                message = message[:start]
            case _:
                messages.insert(index, messages[draw.randrange(len(messages))])
        messages[index] = bytes(message)
    return messages


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_ten_thousand_mutated_messages_leave_a_peer_alive_and_its_memory_bounded(
    bob: GrpcTransport, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    draw = random.Random(20260701)
    large = list(encoded(Model(1, {"a": torch.ones(CHUNK_BYTES // 4 + 100)})).frames())
    valid = [*EVERY_RPC.items()] * 6 + [(PUSH, large)]
    outcomes: set[grpc.StatusCode | Refusal] = set()

    async def attack(channel: grpc.aio.Channel, count: int) -> None:
        for _ in range(count):
            method, messages = draw.choice(valid)
            outcomes.add(await call(channel, method, mutated(messages, draw), deadline=1.0))

    async with AsyncExitStack() as stack:
        attackers = [Identity.from_seed(bytes([index])) for index in range(4)]
        channels = [
            await stack.enter_async_context(dial(bob, certify(authority, who), authority.pem)) for who in attackers
        ]
        await asyncio.gather(*(attack(channel, 125) for channel in channels * 4))
        before = resident_bytes()
        await asyncio.gather(*(attack(channel, 500) for channel in channels * 4))
        grown = resident_bytes() - before
    assert grown < 64 << 20
    assert {Refusal.MALFORMED, Refusal.DIGEST, Refusal.SIGNATURE, Refusal.BUSY} <= outcomes
    assert grpc.StatusCode.UNKNOWN not in outcomes  # an exception that nobody thought of
    async with GrpcTransport.serve("127.0.0.1:0", ALICE, certify(authority, ALICE)) as alice:
        alice.introduce(bob.id, bob.address)
        asking = asyncio.ensure_future(alice.request(bob.id, Ping(7), 20.0))
        async for envelope in bob.inbox(Ping):
            envelope.answer(Pong(8))
            if envelope.sender == ALICE.id:
                break
        assert await asking == Pong(8)
        model: Message = Model(1, {"a": torch.randn(CHUNK_BYTES)})
        await alice.send(bob.id, model)


async def test_a_burst_of_connections_does_not_bring_a_peer_down(
    bob: GrpcTransport, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    """gRPC has a race where a certificate is replaced: done at every connection, it crashed the process."""
    stranger = ssl.create_default_context(cadata=authority.pem.decode())
    host, port = split_address(bob.address)
    burst = asyncio.Semaphore(32)

    async def knock(number: int) -> None:
        async with burst:
            _, writer = await asyncio.open_connection(host, port, ssl=stranger, server_hostname=host_name(BOB.id))
            writer.transport.abort()
        if number % 100 == 0:
            bob.rotate(certify(authority, BOB))

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for number in range(400):
            tasks.create_task(knock(number))
    alice = certify(authority, ALICE)
    async with dial(bob, alice, authority.pem) as channel:
        assert await call(channel, *next(iter(EVERY_RPC.items()))) is grpc.StatusCode.OK
