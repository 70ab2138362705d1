"""Frames of several conversations over one stream of gRPC, written in turn and put together again.

gRPC takes one message of a stream at a time, and each costs more than the little that most have in them. So small
frames leave in one message with whatever else waits, and who says little does not wait until it has left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from decentral.wire.conversation import Said
from decentral.wire.framing import MOST_FRAMES, Hearing, frames
from decentral.wire.limits import Limits
from decentral.wire.v1 import serving_pb2

if TYPE_CHECKING:
    from decentral.wire.sealed import Cipher

TOGETHER = 1 << 16
"""Bytes that may leave in one message of several frames, and that may wait before who says more waits too."""


class Stream:
    """One end of a session; `writing` has to run beside it."""

    def __init__(self, write: Callable[[bytes], Awaitable[Any]], limits: Limits) -> None:
        self.sent = self.received = 0
        self.cipher: Cipher | None = None
        """Of all messages from now on."""
        self._write, self._limits = write, limits
        self._waiting: deque[tuple[bytes, asyncio.Future[None] | None]] = deque()
        self._leaving: list[asyncio.Future[None]] = []
        self._size = 0  # of what waits
        self._idle: asyncio.Future[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._finished = False
        self._broken: Exception | None = None
        self._hearing: dict[int, Hearing] = {}

    # ---- out ------------------------------------------------------------------------------------------------------

    async def say(self, conversation: int, said: Said) -> None:
        """Returns once it has left, or little waits. Raises what the stream broke with.

        Whoever stops waiting stops between two frames: gRPC ends the stream of all if a write is cancelled.
        """
        for frame in frames(conversation, said):
            if self._broken is not None:
                raise self._broken
            if (left := self._put(frame)) is not None:
                await left

    async def say_last(self, conversation: int, said: Said, cipher: Cipher) -> None:
        """The last that can be read by others: all after it is sealed. Raises what the stream broke with."""
        if self._broken is not None:  # nobody writes any more, so that it would wait for ever
            raise self._broken
        left = asyncio.get_running_loop().create_future()
        for frame in frames(conversation, said):
            self._size += len(frame)
            self._waiting.append((frame, left))
        self._wake()
        await left
        self.cipher = cipher

    def mention(self, conversation: int, said: Said, linger: float = 0.0) -> None:
        """The same for what is small, without waiting, or learning whether it leaves.

        What is in no hurry may linger for so many seconds, to leave with what is said next.
        """
        if self._broken is None:
            for frame in frames(conversation, said):
                self._size += len(frame)
                self._waiting.append((frame, None))
            if not linger:
                self._wake()
            elif self._lingering is None:
                self._lingering = asyncio.get_running_loop().call_later(linger, self._wake)

    def _put(self, frame: bytes) -> asyncio.Future[None] | None:
        self._size += len(frame)
        left = asyncio.get_running_loop().create_future() if self._size > TOGETHER else None
        self._waiting.append((frame, left))
        self._wake()
        return left

    def _wake(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def writing(self) -> None:
        """Writes what is said, until `finish` or `end`. Raises what a write fails with."""
        try:
            while True:
                while self._waiting:
                    message = self._next()
                    if self.cipher is not None:
                        message = self.cipher.seal(message)
                    await self._write(message)
                    self.sent += len(message)
                    for left in self._leaving:
                        if not left.done():
                            left.set_result(None)
                if self._finished or self._broken is not None:
                    return
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
        except Exception as error:
            self.end(error)
            raise

    def _next(self) -> bytes:
        """A message of what waits."""
        parts: list[bytes] = []
        size = 0
        self._leaving = []
        while self._waiting and len(parts) < MOST_FRAMES:
            frame, left = self._waiting[0]
            if parts and size + len(frame) > TOGETHER:
                break
            self._waiting.popleft()
            parts.append(frame)
            size += len(frame)
            if left is not None:
                self._leaving.append(left)
        self._size -= size
        return b"".join(parts) if len(parts) > 1 else parts[0]

    def finish(self) -> None:
        """Nothing more is said: `writing` ends when what waits has left."""
        self._finished = True
        self._wake()

    def end(self, why: Exception) -> None:
        """Nothing leaves any more."""
        self._broken = why
        for left in (*self._leaving, *(left for _, left in self._waiting if left is not None)):
            if not left.done():
                left.set_exception(why)
        self._waiting.clear()
        self._wake()

    # ---- in -------------------------------------------------------------------------------------------------------

    def came(self, message: bytes) -> bytes:
        """What is in a message of the other end. Raises Malformed where it is sealed, and not for us."""
        self.received += len(message)
        return message if self.cipher is None else self.cipher.open(message)

    def hear(self, frame: serving_pb2.SessionFrame) -> Said | None:
        """A message, once all of it has come. Raises Malformed."""
        number = frame.conversation
        hearing = self._hearing.get(number)
        if hearing is None:
            hearing = Hearing(frame, self._limits)
            if not hearing.complete:
                self._hearing[number] = hearing
                return None
        else:
            hearing.feed(frame)
            if not hearing.complete:
                return None
            del self._hearing[number]
        return hearing.message()

    def forget(self, conversation: int) -> None:
        self._hearing.pop(conversation, None)
