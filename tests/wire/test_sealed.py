"""Sessions that only one machine can read: evidence first, then keys, then ciphertext, and no way around that order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from decentral.errors import Malformed, Refusal, Refused, Unreachable
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials, peer_id_of
from decentral.wire.conversation import Challenge, Keys, Output, Said, Shown, Task
from decentral.wire.framing import parse
from decentral.wire.identity import Identity
from decentral.wire.limits import Limits
from decentral.wire.links import Links
from decentral.wire.sealed import SESSION, Greeting, Offer
from decentral.wire.sessions import Client, Session, open_session
from decentral.wire.stream import Stream

DIGEST = bytes(32)
NONCE = bytes(range(32))


class Marked:
    """A cipher that hides nothing: a counter and a key before each message, so that mistakes in order are seen."""

    def __init__(self, key: bytes) -> None:
        self._key, self._sent, self._heard = key, 0, 0
        self.seen: list[bytes] = []

    def seal(self, message: bytes) -> bytes:
        self._sent += 1
        return self._key + bytes([self._sent]) + message[::-1]

    def open(self, message: bytes) -> bytes:
        self._heard += 1
        self.seen.append(message)
        if not message.startswith(self._key + bytes([self._heard])):
            raise Malformed(Refusal.SIGNATURE, "not the next message of this session")
        return message[len(self._key) + 1 :][::-1]


async def double(given: Task, client: Client) -> None:
    await client.say(Output({"y": given.tensors["x"] * 2}))


def shows(evidence: bytes = b"quote", agree: Callable[[bytes], Marked] = Marked) -> Any:
    async def attest(nonce: bytes, certificate: bytes = b"") -> Offer:
        return Offer(evidence + nonce, agree, lambda content: b"signed" + content)

    return attest


def task(size: int = 4) -> Task:
    return Task("double", DIGEST, {"x": torch.ones(size)})


async def test_a_client_is_shown_evidence_for_its_nonce_and_seals_all_that_follows(serving: Any) -> None:
    ends: list[Marked] = []

    def agree(keys: bytes) -> Marked:
        ends.append(Marked(keys))
        return ends[-1]

    transport, session = await serving(double, attest=shows(agree=agree))
    assert await session.challenge(NONCE, 20.0) == b"quote" + NONCE
    own = Marked(b"key")
    await session.seal(b"key", own, 20.0)
    large = 1 << 19  # two frames of 1 MiB
    answers = await asyncio.gather(session.ask(task(), 20.0), session.ask(task(large), 20.0))
    assert [answer.tensors["y"].sum().item() for answer in answers] == [8.0, 2.0 * large]
    assert own.seen and ends[0].seen
    assert peer_id_of(session.certificate) == transport.id


async def test_evidence_is_made_for_the_certificate_that_the_client_sees(serving: Any) -> None:
    async def attest(nonce: bytes, certificate: bytes) -> Offer:
        return Offer(certificate, Marked, bytes)

    _, session = await serving(double, attest=attest)
    assert await session.challenge(NONCE, 20.0) == session.certificate


async def test_evidence_of_several_frames_comes_whole(serving: Any) -> None:
    _, session = await serving(double, attest=shows(bytes(3 << 20)))
    assert await session.challenge(NONCE, 20.0) == bytes(3 << 20) + NONCE


async def test_without_a_challenge_a_session_is_as_it_was(serving: Any) -> None:
    _, session = await serving(double, attest=shows())
    assert (await session.ask(task(), 20.0)).tensors["y"].sum() == 8
    with pytest.raises(ValueError, match="before all conversations"):
        await session.challenge(NONCE, 20.0)


async def test_a_node_without_evidence_refuses_the_session_and_says_why(serving: Any) -> None:
    _, session = await serving(double)
    with pytest.raises(Refused, match="no evidence of its machine"):
        await session.challenge(NONCE, 20.0)


async def test_a_node_that_cannot_show_any_says_so(serving: Any) -> None:
    async def attest(nonce: bytes, certificate: bytes) -> Offer:
        raise Malformed(Refusal.BUSY, "the quoting process is gone")

    _, session = await serving(double, attest=attest)
    with pytest.raises(Refused, match="quoting process is gone"):
        await session.challenge(NONCE, 20.0)


async def test_keys_that_are_not_for_this_machine_end_the_session(serving: Any) -> None:
    def agree(keys: bytes) -> Marked:
        raise Malformed(Refusal.SIGNATURE, "not sealed to this machine")

    _, session = await serving(double, attest=shows(agree=agree))
    await session.challenge(NONCE, 20.0)
    await session.seal(b"key", Marked(b"key"), 20.0)
    with pytest.raises((Refused, Unreachable)):
        await session.ask(task(), 20.0)


async def test_whoever_has_other_keys_is_not_understood(serving: Any) -> None:
    _, session = await serving(double, attest=shows())
    await session.challenge(NONCE, 20.0)
    await session.seal(b"key", Marked(b"another"), 20.0)
    with pytest.raises((Refused, Unreachable)):
        await session.ask(task(), 20.0)


async def test_what_is_not_sealed_in_a_sealed_session_ends_it(serving: Any) -> None:
    _, session = await serving(double, attest=shows())
    await session.challenge(NONCE, 20.0)
    await session.seal(b"key", Marked(b"key"), 20.0)
    session._stream.cipher = None
    with pytest.raises((Refused, Unreachable)):
        await session.ask(task(), 20.0)


async def test_one_that_says_nothing_is_waited_for_until_the_deadline(serving: Any) -> None:
    async def attest(nonce: bytes, certificate: bytes) -> Offer:
        await asyncio.Event().wait()
        raise AssertionError

    _, session = await serving(double, attest=attest)
    with pytest.raises(Unreachable, match="no evidence within"):
        await session.challenge(NONCE, 0.05)


async def test_a_connection_that_breaks_before_the_keys_are_given_is_told_at_once(serving: Any) -> None:
    _, session = await serving(double, attest=shows())
    await session.challenge(NONCE, 20.0)
    session.end(Unreachable("the connection broke"))
    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="the connection broke"):
            await session.seal(b"key", Marked(b"key"), 20.0)


async def test_keys_that_do_not_leave_are_waited_for_until_the_deadline(serving: Any) -> None:
    async def stuck(message: bytes) -> None:
        await asyncio.Event().wait()

    _, session = await serving(double, attest=shows())
    await session.challenge(NONCE, 20.0)
    session._stream._write = stuck
    with pytest.raises(Unreachable, match=r"took no keys within 0\.05 s"):
        await session.seal(b"key", Marked(b"key"), 0.05)


async def test_evidence_is_made_for_a_client_once_at_a_time_even_if_it_hangs_up(
    serving: Any, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    """Whoever asks again and again would keep the machine from everybody else."""
    made, may = 0, asyncio.Event()

    async def attest(nonce: bytes, certificate: bytes) -> Offer:
        nonlocal made
        made += 1
        await may.wait()
        return Offer(b"quote" + nonce, Marked, bytes)

    transport, other = await serving(double, attest=attest)
    links = Links(certify(authority, Identity.generate()))
    links.introduce(transport.id, transport.address)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(links.close)
        async with open_session(links, transport.id) as first:
            with pytest.raises(Unreachable, match="no evidence within"):
                await first.challenge(NONCE, 0.2)
        for _ in range(3):
            session = await stack.enter_async_context(open_session(links, transport.id))
            with pytest.raises(Refused) as refused:
                await session.challenge(NONCE, 20.0)
            assert refused.value.reason is Refusal.BUSY
        assert made == 1
        theirs = asyncio.create_task(other.challenge(NONCE, 20.0))
        await asyncio.sleep(0.05)
        may.set()
        assert await theirs == b"quote" + NONCE
        session = await stack.enter_async_context(open_session(links, transport.id))
        assert await session.challenge(NONCE, 20.0) == b"quote" + NONCE
    assert made == 3


class Ends:
    """A stream whose messages stay here, and a greeting over it."""

    def __init__(self, attest: Any) -> None:
        self.stream = Stream(self._write, Limits())
        self.greeting = Greeting(attest, self.stream)

    async def _write(self, message: bytes) -> None: ...

    async def hear(self, *said: Said, begun: bool = False) -> None:
        from decentral.wire.framing import frames

        for each in said:
            for message in frames(SESSION, each):
                for frame in parse(message):
                    await self.greeting.take(frame, begun)


OUT_OF_ORDER: dict[str, tuple[tuple[Said, ...], bool]] = {
    "keys before evidence": ((Keys(b"key"),), False),
    "a second challenge": ((Challenge(NONCE), Challenge(NONCE)), False),
    "keys twice": ((Challenge(NONCE), Keys(b"key"), Keys(b"key")), False),
    "a challenge after the keys": ((Challenge(NONCE), Keys(b"key"), Challenge(NONCE)), False),
    "a challenge once work has begun": ((Challenge(NONCE),), True),
    "a task about the session itself": ((task(),), False),
    "evidence of the client": ((Shown(b"quote"),), False),
}


@pytest.mark.parametrize(("said", "begun"), OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
async def test_a_greeting_has_one_order(said: tuple[Said, ...], begun: bool) -> None:
    with pytest.raises(Malformed):
        await Ends(shows()).hear(*said, begun=begun)


async def test_a_greeting_in_order_seals_the_stream() -> None:
    ends = Ends(shows())
    await ends.hear(Challenge(NONCE))
    assert ends.stream.cipher is None
    assert ends.greeting.speak is None
    await ends.hear(Keys(b"key"))
    assert isinstance(ends.stream.cipher, Marked)
    assert ends.greeting.speak is not None and ends.greeting.speak(b"this") == b"signed" + b"this"


def test_a_session_that_hears_evidence_which_it_did_not_ask_for_is_broken() -> None:
    from decentral.wire.framing import frames

    session = Session(FakeCall(), "peer", Limits())  # type: ignore[arg-type]
    with pytest.raises(Malformed, match="nobody has asked for"):
        session.take(b"".join(frames(SESSION, Shown(b"quote"))))


class FakeCall:
    async def write(self, message: bytes) -> None: ...
