"""Frames leave in the order in which they are said, small ones together, and nobody waits for what is little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import torch

from decentral.wire.conversation import Commitment, Fetch, Keys, Output, Over
from decentral.wire.framing import MOST_FRAMES, frames, parse
from decentral.wire.limits import CHUNK_BYTES, Limits
from decentral.wire.stream import TOGETHER, Stream

DIGEST = bytes(32)


class Wire:
    """What was written; nothing is while `open` is not set."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.open = asyncio.Event()
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def write(self, message: bytes) -> None:
        await self.open.wait()
        self.messages.append(message)
        self.arrived.put_nowait(message)

    def numbers(self) -> list[list[int]]:
        """Of the conversations, by message."""
        return [[frame.conversation for frame in parse(message)] for message in self.messages]


class Unused:
    """A cipher that nothing comes to."""

    def seal(self, message: bytes) -> bytes:
        raise AssertionError

    def open(self, message: bytes) -> bytes:
        raise AssertionError


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Stream, Wire]]:
    wire = Wire()
    stream = Stream(wire.write, Limits())
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(stream.writing())
        yield stream, wire
        stream.finish()


async def test_what_is_little_waits_for_nobody_and_leaves_in_one_message() -> None:
    async with running() as (stream, wire):
        for number in range(1, 6):
            await stream.say(number, Commitment(DIGEST))
        assert wire.messages == []
        wire.open.set()
    assert wire.numbers() == [[1, 2, 3, 4, 5]]
    assert stream.sent == sum(map(len, wire.messages))


async def test_what_is_said_while_a_message_leaves_is_in_the_next() -> None:
    async with running() as (stream, wire):
        await stream.say(1, Fetch())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for number in (2, 3):
            await stream.say(number, Fetch())
        wire.open.set()
    assert wire.numbers() == [[1], [2, 3]]


async def test_a_message_has_no_more_frames_than_the_other_side_takes() -> None:
    async with running() as (stream, wire):
        for number in range(1, MOST_FRAMES + 3):
            await stream.say(number, Fetch())
        wire.open.set()
    assert list(map(len, wire.numbers())) == [MOST_FRAMES, 2]


async def test_who_says_much_waits_until_it_has_left_and_chunks_leave_alone() -> None:
    async with running() as (stream, wire):
        large = asyncio.ensure_future(stream.say(1, Output({"y": torch.zeros(CHUNK_BYTES // 2)})))
        await asyncio.sleep(0.01)
        assert not large.done()
        wire.open.set()
        await large
    assert wire.numbers() == [[1], [1]]


async def test_frames_of_large_messages_alternate() -> None:
    async with running() as (stream, wire):
        large = Output({"y": torch.zeros(CHUNK_BYTES)})
        wire.open.set()
        await asyncio.gather(stream.say(1, large), stream.say(2, large))
    assert wire.numbers() == [[1], [2]] * 4


async def test_nobody_says_more_than_the_stream_can_take_without_waiting() -> None:
    async with running() as (stream, wire):
        said = 0

        async def babble() -> None:
            nonlocal said
            while True:
                await stream.say(1, Commitment(DIGEST))
                said += 1

        babbling = asyncio.ensure_future(babble())
        await asyncio.sleep(0.05)
        assert said <= 2 * TOGETHER // len(DIGEST)
        babbling.cancel()
        wire.open.set()
        await asyncio.gather(babbling, return_exceptions=True)


async def test_who_stops_waiting_leaves_the_stream_to_the_others() -> None:
    async with running() as (stream, wire):
        large = asyncio.ensure_future(stream.say(1, Output({"y": torch.zeros(CHUNK_BYTES)})))
        await asyncio.sleep(0.01)
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        stream.mention(1, Over())
        await stream.say(2, Fetch())
        wire.open.set()
    assert wire.numbers() == [[1], [1, 2]]


async def test_what_is_in_no_hurry_leaves_with_what_is_said_next_or_by_itself() -> None:
    async with running() as (stream, wire):
        wire.open.set()
        await asyncio.sleep(0)  # until it has begun to write
        stream.mention(1, Over(), 1000.0)
        await asyncio.sleep(0.01)
        assert wire.messages == []
        await stream.say(2, Fetch())
        await wire.arrived.get()
        stream.mention(3, Over(), 0.001)
        await wire.arrived.get()
        stream.mention(4, Over(), 1000.0)
    assert wire.numbers() == [[1, 2], [3], [4]], "what waits at the end leaves too"


async def test_a_write_that_fails_ends_the_stream_for_all_who_say_something() -> None:
    async def write(message: bytes) -> None:
        await asyncio.sleep(0.01)
        raise ConnectionError("gone")

    stream = Stream(write, Limits())
    writing = asyncio.ensure_future(stream.writing())
    waiting = [asyncio.ensure_future(stream.say(n, Output({"y": torch.zeros(CHUNK_BYTES)}))) for n in (1, 2)]
    async with asyncio.timeout(20):
        for each in (writing, *waiting):
            with pytest.raises(ConnectionError):
                await each
        with pytest.raises(ConnectionError):
            await stream.say(3, Fetch())
        stream.mention(3, Over())


async def test_ended_from_outside_it_raises_why_and_writes_no_more() -> None:
    wire = Wire()
    stream = Stream(wire.write, Limits())
    writing = asyncio.ensure_future(stream.writing())
    waiting = asyncio.ensure_future(stream.say(1, Output({"y": torch.zeros(CHUNK_BYTES)})))
    await asyncio.sleep(0.01)
    stream.end(ConnectionError("over"))
    wire.open.set()
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionError):
            await waiting
        await writing
    assert wire.numbers() == [[1]]


@pytest.mark.parametrize("when", ["before", "while it waits"])
async def test_the_last_word_that_others_can_read_does_not_wait_for_who_has_gone(when: str) -> None:
    stream = Stream(Wire().write, Limits())
    writing = asyncio.ensure_future(stream.writing())
    await asyncio.sleep(0.01)
    if when == "before":
        stream.end(ConnectionError("over"))
    last = asyncio.ensure_future(stream.say_last(0, Keys(b"key"), Unused()))
    await asyncio.sleep(0.01)
    if when != "before":
        assert not last.done()
        stream.end(ConnectionError("over"))
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionError, match="over"):
            await last
    assert stream.cipher is None
    writing.cancel()


async def test_messages_come_together_from_frames_that_alternate() -> None:
    stream = Stream(Wire().write, Limits())
    large = Output({"y": torch.arange(CHUNK_BYTES // 4)})
    one, other = ([parse(message)[0] for message in frames(number, large)] for number in (1, 2))
    heard = [stream.hear(frame) for pair in zip(one, other, strict=True) for frame in pair]
    assert heard[:-2] == [None] * (len(heard) - 2)
    for said in heard[-2:]:
        assert isinstance(said, Output)
        assert torch.equal(said.tensors["y"], large.tensors["y"])
    assert stream.hear(parse(next(frames(1, Fetch())))[0]) == Fetch()


async def test_what_is_forgotten_does_not_go_on() -> None:
    stream = Stream(Wire().write, Limits())
    first, *_ = frames(1, Output({"y": torch.zeros(CHUNK_BYTES)}))
    assert stream.hear(parse(first)[0]) is None
    stream.forget(1)
    assert stream.hear(parse(next(frames(1, Fetch())))[0]) == Fetch()
