"""Sessions over mutual TLS on loopback: conversations do not disturb one another, and nobody gets more than a share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import torch

from decentral.errors import Malformed, Refusal, Refused, Unreachable, leading
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Over, Reveal, Said, Task, Terms
from decentral.wire.framing import frames, parse
from decentral.wire.identity import Identity
from decentral.wire.limits import Limits
from decentral.wire.links import Links
from decentral.wire.sessions import Client, Service, open_session

DIGEST = bytes(32)
REVEAL = Reveal(DIGEST, DIGEST, DIGEST, bytes(64))


def task(value: float, part: str = "double") -> Task:
    return Task(part, DIGEST, {"x": torch.full((4,), value)})


async def double(given: Task, client: Client) -> None:
    if given.part != "double":
        raise Malformed(Refusal.MODEL, f"no part {given.part}")
    await client.say(Output({"y": given.tensors["x"] * 2}))


async def test_an_answer_comes_to_the_conversation_that_asked(serving: Any) -> None:
    _, session = await serving(double)
    answers = await asyncio.gather(*(session.ask(task(float(value)), 20.0) for value in range(50)))
    assert [answer.tensors["y"][0].item() for answer in answers] == [2.0 * value for value in range(50)]
    assert session.sent > 0
    assert session.received > 0


async def test_a_server_knows_how_many_sessions_it_has(
    serving: Any, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    transport, session = await serving(double)
    await session.ask(task(1.0), 20.0)
    links = Links(certify(authority, Identity.generate()))
    links.introduce(transport.id, transport.address)
    async with open_session(links, transport.id) as another:
        await another.ask(task(1.0), 20.0)
        assert transport.sessions == 2
    while transport.sessions > 1:  # noqa: ASYNC110  one that stays is found by the test's own deadline
        await asyncio.sleep(0.01)
    await links.close()


async def test_a_slow_conversation_does_not_hold_up_a_fast_one(serving: Any) -> None:
    gate = asyncio.Event()

    async def serve(given: Task, client: Client) -> None:
        if given.tensors["x"][0] == 0:
            await gate.wait()
        await double(given, client)

    _, session = await serving(serve)
    slow = asyncio.ensure_future(session.ask(task(0.0), 20.0))
    assert (await session.ask(task(1.0), 20.0)).tensors["y"][0] == 2.0
    assert not slow.done()
    gate.set()
    await slow


async def test_large_tensors_come_whole_in_both_directions(serving: Any) -> None:
    _, session = await serving(double)
    large = torch.randn(3, 1 << 19)
    answer = await session.ask(Task("double", DIGEST, {"x": large}), 20.0)
    assert torch.equal(answer.tensors["y"], large * 2)


async def test_a_refusal_ends_its_conversation_alone(serving: Any) -> None:
    _, session = await serving(double)
    with pytest.raises(Refused) as refused:
        await session.ask(task(1.0, part="treble"), 20.0)
    assert refused.value.reason is Refusal.MODEL
    assert (await session.ask(task(1.0), 20.0)).tensors["y"][0] == 2.0


async def test_nobody_waits_longer_than_the_deadline_and_the_server_stops_working(serving: Any) -> None:
    stopped = asyncio.Event()

    async def serve(given: Task, client: Client) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    _, session = await serving(serve)
    with pytest.raises(Unreachable, match="no answer"):
        await session.ask(task(1.0), 0.2)
    async with asyncio.timeout(20):
        await stopped.wait()


async def test_a_server_that_goes_away_ends_what_is_asked(serving: Any) -> None:
    async def serve(given: Task, client: Client) -> None:
        await asyncio.sleep(60)

    transport, session = await serving(serve)
    asked = asyncio.ensure_future(session.ask(task(1.0), 20.0))
    await asyncio.sleep(0.05)
    await transport.close()
    with pytest.raises(Unreachable):
        await asked
    with pytest.raises(Unreachable):
        await session.ask(task(1.0), 20.0)


async def test_commitments_and_reveals_are_not_the_last_words_of_a_conversation(serving: Any) -> None:
    async def serve(given: Task, client: Client) -> None:
        assert given.terms == Terms(bytes(16), DIGEST, 5)
        await client.say(Commitment(DIGEST))
        assert await client.hear() == Open((DIGEST,))
        await client.say(REVEAL)
        assert await client.hear() == Fetch()
        await double(given, client)

    _, session = await serving(serve)
    async with asyncio.timeout(20), session.converse() as conversation:
        await conversation.say(Task("double", DIGEST, task(1.0).tensors, Terms(bytes(16), DIGEST, 5)))
        assert await conversation.hear() == Commitment(DIGEST)
        await conversation.say(Open((DIGEST,)))
        await conversation.say(Fetch())
        assert await conversation.hear() == REVEAL
        heard = await conversation.hear()
    assert isinstance(heard, Output)
    assert heard.tensors["y"].tolist() == [2.0] * 4


async def test_a_client_that_leaves_after_the_reveal_ends_what_the_server_does_for_it(serving: Any) -> None:
    stopped = asyncio.Event()

    async def serve(given: Task, client: Client) -> None:
        try:
            await client.say(REVEAL)
            await client.hear()
        finally:
            stopped.set()

    _, session = await serving(serve)
    async with asyncio.timeout(20):
        async with session.converse() as conversation:
            await conversation.say(task(1.0))
            await conversation.hear()
        await stopped.wait()


@pytest.mark.parametrize(
    ("later", "many"),
    [(Output({"x": torch.ones(4)}), 1), (Output({}), 1), (Commitment(DIGEST), 1), (REVEAL, 1), (Fetch(), 9)],
    ids=["tensors", "output", "commitment", "reveal", "too much"],
)
async def test_what_a_client_says_after_its_task_is_bounded(serving: Any, later: Said, many: int) -> None:
    async def serve(given: Task, client: Client) -> None:
        await asyncio.sleep(60)

    _, session = await serving(serve, limits=Limits(pending=8))
    with pytest.raises(Refused):
        async with asyncio.timeout(20), session.converse() as conversation:
            await conversation.say(task(1.0))
            for _ in range(many):
                await conversation.say(later)
            await conversation.hear()


async def test_as_much_as_may_wait_does(serving: Any) -> None:
    gate = asyncio.Event()

    async def serve(given: Task, client: Client) -> None:
        await gate.wait()
        for _ in range(8):
            assert await client.hear() == Fetch()
        for _ in range(8):
            await client.say(Commitment(DIGEST))
        await double(given, client)

    _, session = await serving(serve, limits=Limits(pending=8))
    async with asyncio.timeout(20), session.converse() as conversation:
        await conversation.say(task(1.0))
        for _ in range(8):
            await conversation.say(Fetch())
        gate.set()
        heard = [await conversation.hear() for _ in range(9)]
    assert heard[:8] == [Commitment(DIGEST)] * 8
    assert isinstance(heard[8], Output)


@pytest.mark.parametrize("said", [task(1.0), Open((DIGEST,)), Fetch()], ids=lambda said: type(said).__name__)
async def test_a_server_that_says_what_clients_say_breaks_the_protocol(serving: Any, said: Said) -> None:
    async def serve(given: Task, client: Client) -> None:
        await client.say(said)

    _, session = await serving(serve)
    with pytest.raises(Unreachable, match="breaks the protocol"):
        await session.ask(task(1.0), 20.0)


async def test_a_server_that_says_more_than_is_read_breaks_the_protocol(serving: Any) -> None:
    async def serve(given: Task, client: Client) -> None:
        while given.tensors["x"][0] == 0:
            await client.say(Commitment(DIGEST))
        await asyncio.sleep(60)

    _, session = await serving(serve)
    async with asyncio.timeout(20), session.converse() as conversation:
        await conversation.say(task(0.0))
        with pytest.raises(Unreachable, match=r"breaks the protocol \(busy"):
            await session.ask(task(1.0), 20.0)
        assert [await conversation.hear() for _ in range(8)] == [Commitment(DIGEST)] * 8
        with pytest.raises(Unreachable):
            await conversation.hear()


async def test_who_gives_up_in_the_middle_of_a_message_disturbs_nobody_else(serving: Any) -> None:
    _, session = await serving(double)
    large = Task("double", DIGEST, {"x": torch.zeros(1 << 22)})
    for patience in (0.0, 0.001, 0.005, 0.02):
        with contextlib.suppress(Unreachable):
            await session.ask(large, patience)
        assert (await session.ask(task(1.0), 20.0)).tensors["y"][0] == 2.0


async def test_room_is_given_back_for_tasks_that_are_called_off_before_they_begin() -> None:
    service = Service(double, Limits(held=16))

    async def incoming(number: int) -> AsyncIterator[bytes]:
        for frame in (*frames(number, task(1.0)), *frames(number, Over())):
            yield frame  # without waiting in between: what answers has had no turn yet

    written: list[bytes] = []

    async def write(data: bytes) -> None:
        written.append(data)

    for number in range(1, 4):
        await service.session(incoming(number), write, Identity.generate().id)
    assert not any(frame.WhichOneof("said") == "refused" for data in written for frame in parse(data))


async def test_a_session_with_a_stranger_is_refused(serving: Any) -> None:
    with pytest.raises(Refused) as refused:
        await serving(double, members=lambda peer: False)
    assert refused.value.reason is Refusal.NOT_A_MEMBER


async def test_a_peer_that_serves_nothing_has_no_sessions(serving: Any) -> None:
    with pytest.raises(Unreachable, match="unimplemented"):
        await serving(None)


@pytest.mark.parametrize(
    "frames_sent",
    [[b"\xff\xff"], [*frames(1, Output({}))], [*frames(1, task(1.0)), *frames(2, Over())]],
    ids=["no frame", "no task", "over before its beginning"],
)
async def test_what_is_no_session_is_malformed(frames_sent: list[bytes]) -> None:
    async def incoming() -> AsyncIterator[bytes]:
        for frame in frames_sent:
            yield frame

    async def write(data: bytes) -> None:
        return

    with pytest.raises(BaseExceptionGroup) as raised:
        await Service(double, Limits()).session(incoming(), write, Identity.generate().id)
    assert isinstance(leading(raised.value), Malformed)
