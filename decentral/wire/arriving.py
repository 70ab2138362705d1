"""Tasks of which more is to come: each has room from its first frame on, and comes in time or loses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from decentral.errors import Malformed, Refusal, Refused
from decentral.wire.conversation import Task
from decentral.wire.framing import announced_bytes
from decentral.wire.limits import Limits
from decentral.wire.messages import PeerId
from decentral.wire.room import Room
from decentral.wire.stream import Stream
from decentral.wire.v1 import serving_pb2


class Arriving:
    """Those of one session."""

    def __init__(
        self,
        stream: Stream,
        room: Room,
        sender: PeerId,
        limits: Limits,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """`draining`: whether no more tasks are taken."""
        self._stream, self._room, self._sender, self._limits = stream, room, sender, limits
        self._draining = draining
        self._sizes: dict[int, int] = {}
        self._late: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        """When all has to be here, and what happens if nothing more comes."""
        self._newest = 0

    @property
    def begun(self) -> bool:
        """Whether there has been any."""
        return self._newest > 0

    @property
    def under_way(self) -> bool:
        """Whether more is to come of any."""
        return bool(self._sizes)

    def take(self, frame: serving_pb2.SessionFrame, running: int) -> Task | None:
        """The task, once all of it is here; it is refused where too much is under way. Raises Malformed."""
        number, kind = frame.conversation, frame.WhichOneof("said")
        if number > self._newest:
            self._newest, size = number, announced_bytes(frame)
            if kind != "task":
                raise Malformed(Refusal.MALFORMED, "a conversation that does not begin with a task")
            if self._draining():
                self._stream.mention(number, Refused(Refusal.DRAINING, "this server ends soon; ask another"))
                return None
            if len(self._sizes) + running >= self._limits.conversations or not self._room.take(size, self._sender):
                self._stream.mention(number, Refused(Refusal.BUSY, "too much is under way"))
                return None
            self._sizes[number] = size
        elif number not in self._sizes:
            return None  # it was refused, or is over
        elif kind == "over":
            self._forget(number)
            return None
        said = self._stream.hear(frame)
        if isinstance(said, Task):
            return said
        self._expect_more(number)
        return None

    def pop(self, number: int) -> int:
        """The bytes of a task that has come."""
        if number in self._late:
            self._late.pop(number)[1].cancel()
        return self._sizes.pop(number)

    def drop(self) -> None:
        for number in list(self._sizes):
            self._forget(number)

    def _forget(self, number: int) -> None:
        self._room.give_back(self.pop(number), self._sender)
        self._stream.forget(number)

    def _expect_more(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        whole = loop.time() + self._limits.arrival
        if number in self._late:
            whole, timer = self._late[number]
            timer.cancel()
        until = min(whole, loop.time() + self._limits.silence)
        self._late[number] = whole, loop.call_at(until, self._give_up, number)

    def _give_up(self, number: int) -> None:
        self._forget(number)
        self._stream.mention(number, Refused(Refusal.BUSY, "room was kept for a task that did not come in time"))
