"""What two ends say reaches the other end unread and unchanged, in order, once, and about what it was said."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.session import channel
from decentral.attestation.session.channel import HELLO_BYTES, ChannelEnded, ClientChannel, NodeChannel
from decentral.canonical import joined
from decentral.errors import Malformed, Refusal, Refused, Unreachable
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Output, Task
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.sealed import Offer
from decentral.wire.sessions import Client, open_session

KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
CONTEXT = bytes(range(64))
TASK, PART = b"task" * 4, "stage-1"
ABOUT = {"task": TASK, "part": PART}


def session() -> tuple[ClientChannel, NodeChannel]:
    client = ClientChannel(PUBLIC, CONTEXT)
    return client, NodeChannel(KEY, client.hello, CONTEXT)


def refuses(end: ClientChannel | NodeChannel, sealed: bytes, **about: object) -> None:
    with pytest.raises(Malformed) as caught:
        end.open(sealed, **(ABOUT | about))  # type: ignore[arg-type]
    assert caught.value.reason is Refusal.SIGNATURE
    for call in (end.open, end.seal):
        with pytest.raises(ChannelEnded, match="has ended"):
            call(b"", **ABOUT)  # type: ignore[operator]


# Honest sessions


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40), st.binary(max_size=3), st.text("ab-", max_size=3))))
def test_both_ends_are_understood_whoever_speaks_whenever_about_whatever(
    said: list[tuple[bool, bytes, bytes, str]],
) -> None:
    client, node = session()
    for by_client, content, task, part in said:
        sender, receiver = (client, node) if by_client else (node, client)
        sealed = sender.seal(content, task=task, part=part)
        assert receiver.open(sealed, task=task, part=part) == content


def test_messages_may_be_under_way_in_both_directions() -> None:
    client, node = session()
    asked = [client.seal(bytes([number]), **ABOUT) for number in range(5)]
    answered = [node.seal(bytes([number]), **ABOUT) for number in range(5)]
    assert [node.open(sealed, **ABOUT) for sealed in asked] == [bytes([number]) for number in range(5)]
    assert [client.open(sealed, **ABOUT) for sealed in answered] == [bytes([number]) for number in range(5)]


def test_memory_of_any_kind_in_one_piece_is_sealed_as_its_bytes() -> None:
    client, node = session()
    tensor = np.arange(3 * 2**18, dtype=np.float32).reshape(3, 512, 512)
    for data in (tensor.data, bytearray(b"abc"), memoryview(b"abc"), memoryview(np.zeros((0, 4))), b""):
        assert node.open(bytearray(client.seal(data, **ABOUT)), **ABOUT) == bytes(data)
    with pytest.raises(TypeError):
        client.seal(tensor[:, ::2].data, **ABOUT)
    assert node.open(client.seal(b"goes on", **ABOUT), **ABOUT) == b"goes on"


def test_it_is_what_the_description_says() -> None:
    """Somebody else's node, from RFC 9180, HKDF and AES-GCM alone."""
    client = ClientChannel(PUBLIC, CONTEXT)
    domain = b"decentral/channel/v1"
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    secret = suite.decrypt(client.hello, KEY, joined(domain, CONTEXT))
    transcript = hashlib.sha256(joined(domain, CONTEXT, client.hello)).digest()

    def key(direction: bytes, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(hashes.SHA256(), 32, salt, joined(direction, transcript)).derive(secret))

    first, second = client.seal(b"one", **ABOUT), client.seal(b"two", **ABOUT)
    asks = key(b"client", first[:32])
    for count, sealed, content in ((0, first[32:], b"one"), (1, second, b"two")):
        number = count.to_bytes(8, "big")
        said = asks.decrypt(bytes(4) + number, sealed, joined(TASK, PART.encode(), b"client", number))
        assert said == content
    salt = b"s" * 32
    answer = key(b"node", salt).encrypt(bytes(12), b"three", joined(TASK, PART.encode(), b"node", bytes(8)))
    assert client.open(salt + answer, **ABOUT) == b"three"


def test_a_message_is_longer_by_its_tag_and_the_first_by_a_salt_too() -> None:
    for end in session():
        assert [len(end.seal(b"12345", **ABOUT)) for _ in range(3)] == [5 + 16 + 32, 5 + 16, 5 + 16]
    assert len(ClientChannel(PUBLIC, CONTEXT).hello) == HELLO_BYTES == 80


@pytest.mark.parametrize("genuine", [True, False])
async def test_a_session_of_the_wire_is_for_who_has_the_key_alone(
    authority: Authority, certify: Callable[..., Credentials], genuine: bool
) -> None:
    """Over mutual TLS: who ends it in front of the machine, and shows the machine's evidence, hears nothing."""
    holds = KEY if genuine else X25519PrivateKey.generate()
    given: list[Task] = []

    async def attest(nonce: bytes, certificate: bytes) -> Offer:
        return Offer(PUBLIC, lambda hello: NodeChannel(holds, hello, nonce), bytes)

    async def double(task: Task, client: Client) -> None:
        given.append(task)
        await client.say(Output({"y": task.tensors["x"] * 2}))

    async with AsyncExitStack() as stack:
        server, links = Identity.generate(), Links(certify(authority, Identity.generate()))
        stack.push_async_callback(links.close)
        serving = GrpcTransport.serve("127.0.0.1:0", server, certify(authority, server), serve=double, attest=attest)
        transport = await stack.enter_async_context(serving)
        links.introduce(transport.id, transport.address)
        session = await stack.enter_async_context(open_session(links, transport.id))
        client = ClientChannel(await session.challenge(CONTEXT[:32], 20.0), CONTEXT[:32])
        await session.seal(client.hello, client, 20.0)
        for size in (1, 2**19, 3):  # one of them in several messages
            asked = session.ask(Task("double", bytes(32), {"x": torch.ones(size)}), 20.0)
            if genuine:
                assert (await asked).tensors["y"].sum() == 2 * size
            else:
                with pytest.raises((Refused, Unreachable)):
                    await asked
        assert bool(given) == genuine


# Lies on the way


LIES: dict[str, Callable[[bytes, bytes, bytes, bytes], tuple[bytes, dict[str, object]]]] = {
    "replayed": lambda heard, following, later, answer: (heard, {}),
    "left out": lambda heard, following, later, answer: (later, {}),
    "sent back": lambda heard, following, later, answer: (answer, {}),
    "sent back without its salt": lambda heard, following, later, answer: (answer[32:], {}),
    "replayed without its salt": lambda heard, following, later, answer: (heard[32:], {}),
    "about another task": lambda heard, following, later, answer: (following, {"task": b"kast" * 4}),
    "about another part": lambda heard, following, later, answer: (following, {"part": "stage-2"}),
    "with a letter moved from part to task": lambda heard, following, later, answer: (
        following,
        {"task": TASK + b"s", "part": "tage-1"},
    ),
    "lengthened": lambda heard, following, later, answer: (following + b"\0", {}),
    "two as one": lambda heard, following, later, answer: (following + later, {}),
    "nothing": lambda heard, following, later, answer: (b"", {}),
    "zeros": lambda heard, following, later, answer: (bytes(len(following)), {}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("towards", ["node", "client"])
def test_what_is_not_the_next_message_about_this_is_refused_and_ends_the_session(towards: str, lie: Callable) -> None:  # type: ignore[type-arg]
    client, node = session()
    sender, receiver = (client, node) if towards == "node" else (node, client)
    heard, following, later = (sender.seal(b"message %d" % number, **ABOUT) for number in range(3))
    answer = receiver.seal(b"message 1", **ABOUT)
    assert receiver.open(heard, **ABOUT) == b"message 0"
    sealed, about = lie(heard, following, later, answer)
    refuses(receiver, sealed, **about)


@pytest.mark.parametrize("first", [True, False])
def test_no_byte_of_a_message_can_change_or_be_cut_off(first: bool) -> None:
    generator = random.Random(5)
    for place in range(48 + 5 if first else 16 + 5):
        for cut in (False, True):
            client, node = session()
            sealed = bytearray(client.seal(b"12345", **ABOUT))
            if not first:
                node.open(sealed, **ABOUT)
                sealed = bytearray(client.seal(b"12345", **ABOUT))
            sealed[place] ^= 1 << generator.randrange(8)
            refuses(node, bytes(sealed[:place] if cut else sealed))


def test_a_message_of_another_session_is_refused() -> None:
    (client, _), (_, node) = session(), session()
    refuses(node, client.seal(b"message", **ABOUT))


def test_what_a_client_said_in_a_session_is_refused_as_an_answer_to_it() -> None:
    client, _ = session()
    refuses(client, client.seal(b"message", **ABOUT))


# Lies at the beginning


def test_no_byte_of_a_hello_can_change_or_be_missing() -> None:
    hello = ClientChannel(PUBLIC, CONTEXT).hello
    for place in range(HELLO_BYTES):
        for bit in (0, 7):
            changed = bytearray(hello)
            changed[place] ^= 1 << bit
            with pytest.raises(Malformed):
                NodeChannel(KEY, bytes(changed), CONTEXT)
        with pytest.raises(Malformed):
            NodeChannel(KEY, hello[:place], CONTEXT)
    with pytest.raises(Malformed):
        NodeChannel(KEY, hello + b"\0", CONTEXT)
    assert NodeChannel(KEY, hello, CONTEXT)


def test_a_hello_is_for_one_key_and_one_piece_of_evidence() -> None:
    hello = ClientChannel(PUBLIC, CONTEXT).hello
    for key, context in ((X25519PrivateKey.generate(), CONTEXT), (KEY, CONTEXT[::-1]), (KEY, b"")):
        with pytest.raises(Malformed, match="not sealed to this machine's key"):
            NodeChannel(key, hello, context)


def test_a_secret_of_another_length_is_no_hello() -> None:
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    for length in (0, 31, 33):
        hello = suite.encrypt(bytes(length), KEY.public_key(), joined(b"decentral/channel/v1", CONTEXT))
        with pytest.raises(Malformed):
            NodeChannel(KEY, hello, CONTEXT)


LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


KEYS = {key.hex()[:8]: key for key in LOW_ORDER} | {"none": b"", "short": PUBLIC[:-1], "long": PUBLIC + b"\0"}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_to_which_nothing_can_be_sealed_is_refused(key: bytes) -> None:
    with pytest.raises(Malformed):
        ClientChannel(key, CONTEXT)


def test_a_session_that_is_repeated_to_the_node_is_answered_under_another_key() -> None:
    """Who records a session and plays it again learns nothing from two answers, and its client takes only one."""
    client, node = session()
    asked = client.seal(b"question", **ABOUT)
    again = NodeChannel(KEY, client.hello, CONTEXT)
    assert node.open(asked, **ABOUT) == again.open(asked, **ABOUT) == b"question"
    one, two = node.seal(bytes(64), **ABOUT), again.seal(bytes(64), **ABOUT)
    assert one[:32] != two[:32]
    assert one[32:] != two[32:]
    assert client.open(one, **ABOUT) == bytes(64)
    refuses(client, two)


def test_two_sessions_with_one_node_share_no_secret() -> None:
    (one, _), (other, _) = session(), session()
    assert one.hello != other.hello
    assert one.seal(bytes(64), **ABOUT)[32:] != other.seal(bytes(64), **ABOUT)[32:]


# What would repeat a number


def test_a_counter_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_MESSAGES", 3)
    client, node = session()
    for _ in range(3):
        assert node.open(client.seal(b"message", **ABOUT), **ABOUT) == b"message"
    with pytest.raises(ChannelEnded, match="as much as its keys may"):
        client.seal(b"message", **ABOUT)
    assert client.open(node.seal(b"the other direction goes on", **ABOUT), **ABOUT)


def test_a_key_carries_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_CARRIED", 100)
    client, node = session()
    node.open(client.seal(bytes(60), **ABOUT), **ABOUT)
    with pytest.raises(ChannelEnded):
        client.seal(bytes(41), **ABOUT)


def test_a_message_that_is_too_large_is_refused_before_it_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    client, node = session()
    monkeypatch.setattr(channel, "MAX_MESSAGE", 10)
    with pytest.raises(Malformed) as caught:
        client.seal(bytes(11), **ABOUT)
    assert caught.value.reason is Refusal.TOO_LARGE
    assert node.open(client.seal(bytes(10), **ABOUT), **ABOUT) == bytes(10)
    monkeypatch.setattr(channel, "MAX_MESSAGE", 10**6)
    long = client.seal(bytes(100), **ABOUT)
    monkeypatch.setattr(channel, "MAX_MESSAGE", 10)
    refuses(node, long)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_channel_is_not_copied(again: Callable[[object], object]) -> None:
    for end in session():
        with pytest.raises(TypeError, match="not copied"):
            again(end)


def test_a_fork_does_not_go_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client, node = session()
    sealed = node.seal(b"message", **ABOUT)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    for call in (client.seal, client.open):
        with pytest.raises(ChannelEnded, match="fork"):
            call(sealed, **ABOUT)
    monkeypatch.undo()
    assert client.open(sealed, **ABOUT) == b"message"


def test_threads_that_share_a_channel_never_get_the_same_number() -> None:
    client, _ = session()
    with ThreadPoolExecutor(8) as threads:
        sealed = list(threads.map(lambda _: client.seal(bytes(32), **ABOUT), range(400)))
    assert len({message[-48:] for message in sealed}) == 400
    assert [len(message) for message in sealed].count(80) == 1


def test_what_a_channel_shows_of_itself_is_no_key() -> None:
    for end in session():
        for shown in (repr(end), str(end), repr(end._sends)):
            assert end._sends._secret.hex() not in shown and repr(end._sends._secret) not in shown
