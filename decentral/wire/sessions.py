"""Both ends of a session: conversations over one stream that a client holds open to a server.

A server bounds how many conversations a session has, how many bytes the tasks of a client and of all sessions take, and
how long a task may take to come; what exceeds that is refused with BUSY, and the client tries again or elsewhere. When
a connection breaks, all that is said over it ends as Unreachable; nothing is said twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio

from decentral.errors import Malformed, Refusal, Refused, TransportError, Unreachable
from decentral.wire import rpc
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Over, Proof, Reveal, Said, Task
from decentral.wire.framing import announced_bytes, parse
from decentral.wire.limits import Limits
from decentral.wire.links import Links
from decentral.wire.messages import PeerId
from decentral.wire.room import Room
from decentral.wire.stream import Stream
from decentral.wire.v1 import serving_pb2

METHOD = "Session"
LINGER = 0.02
"""Seconds that a goodbye waits for company: a message of its own costs as much as what it saves."""
BROKEN = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What a write on a stream that has ended raises."""
OF_A_SERVER = {"commitment", "reveal", "output", "proof", "refused", "over"}
"""What a server says, and nothing else, in a conversation that a client has begun."""
OF_A_CLIENT = {"open", "fetch"}
"""What a client says after its task, until it is over."""


class Conversation:
    """The client's side of a conversation. It ends with an output, a proof, or an error."""

    def __init__(self, session: Session, number: int, pending: int) -> None:
        """`pending`: messages that may wait to be read, beside the last."""
        self._session, self._number, self._pending = session, number, pending
        self._heard: asyncio.Queue[Commitment | Reveal | Output | Proof | TransportError] = asyncio.Queue()

    async def say(self, said: Said) -> None:
        """Returns once it has left or is about to. Raises Unreachable."""
        await self._session.write(self._number, said)

    async def hear(self) -> Commitment | Reveal | Output | Proof:
        """What the server says next. Raises Refused, Unreachable."""
        heard = await self._heard.get()
        if isinstance(heard, TransportError):
            self._heard.put_nowait(heard)  # nothing comes after it, however often one asks
            raise heard
        return heard

    def take(self, heard: Commitment | Reveal) -> None:
        """Raises Malformed if too much waits already."""
        if self._heard.qsize() >= self._pending:
            raise Malformed(Refusal.BUSY, "more than it was asked for")
        self._heard.put_nowait(heard)

    def end(self, last: Output | Proof | TransportError) -> None:
        self._heard.put_nowait(last)


class Session:
    """The client's end: conversations with the server `to`. Made by `open_session`."""

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, bytes], to: PeerId, limits: Limits) -> None:
        self.to = to
        self._stream, self._pending = Stream(call.write, limits), limits.pending
        self._open: dict[int, Conversation] = {}
        self._begun = 0
        self._broken: TransportError | None = None

    @property
    def broken(self) -> bool:
        """Whether nothing can be said any more."""
        return self._broken is not None

    @property
    def sent(self) -> int:
        """Bytes of frames."""
        return self._stream.sent

    @property
    def received(self) -> int:
        return self._stream.received

    async def ask(self, task: Task, deadline: float) -> Output:
        """What comes of a task, within `deadline` seconds. Raises Refused, Unreachable."""
        try:
            async with asyncio.timeout(deadline), self.converse() as conversation:
                await conversation.say(task)
                heard = await conversation.hear()
        except TimeoutError:
            raise Unreachable(f"{self.to}: no answer within {deadline:g} s") from None
        if not isinstance(heard, Output):
            raise Unreachable(f"{self.to}: its answer breaks the protocol ({type(heard).__name__})")
        return heard

    @asynccontextmanager
    async def converse(self) -> AsyncIterator[Conversation]:
        """A new conversation; one that is left before its end is called off. Raises TransportError if all is over."""
        if self._broken is not None:
            raise self._broken
        self._begun += 1
        number = self._begun
        self._open[number] = conversation = Conversation(self, number, self._pending)
        try:
            yield conversation
        finally:
            self._stream.forget(number)
            if self._open.pop(number, None) is not None:
                self._stream.mention(number, Over(), LINGER)

    async def write(self, number: int, said: Said) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            await self._stream.say(number, said)
        except BROKEN as error:
            raise self._broken or Unreachable(f"{self.to}: the connection broke") from error

    async def writing(self) -> None:
        """Has to run beside it. If the connection breaks, whoever reads from it finds out why."""
        with suppress(*BROKEN):
            await self._stream.writing()

    def take(self, data: bytes) -> None:
        """A message of the server; frames of conversations that are over are dropped. Raises Malformed."""
        self._stream.received += len(data)
        for frame in parse(data):
            if (conversation := self._open.get(frame.conversation)) is not None:
                self._hear(frame, conversation)

    def _hear(self, frame: serving_pb2.SessionFrame, conversation: Conversation) -> None:
        if (kind := frame.WhichOneof("said")) is not None and kind not in OF_A_SERVER:
            raise Malformed(Refusal.MALFORMED, f"a server that says {kind}")
        match self._stream.hear(frame):
            case Commitment() | Reveal() as said:
                conversation.take(said)
            case Output() | Proof() | Refused() as last:
                del self._open[frame.conversation]
                conversation.end(last)
            case Over():
                del self._open[frame.conversation]
                conversation.end(Unreachable(f"{self.to}: it hung up"))

    def end(self, why: TransportError) -> None:
        """All conversations end with this."""
        self._broken = why
        self._stream.end(why)
        for conversation in self._open.values():
            conversation.end(why)


@asynccontextmanager
async def open_session(
    links: Links, to: PeerId, *, limits: Limits | None = None, deadline: float = 10.0
) -> AsyncIterator[Session]:
    """A session with a server, for as long as the body runs. Raises Refused, Unreachable within `deadline` seconds."""
    opened: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    async def hold(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> None:
        call = channel.stream_stream(f"/{rpc.SERVING}/{METHOD}", None, None)(None)
        session = Session(call, to, limits or Limits())
        why: TransportError = Unreachable(f"{to}: the connection broke")
        writing = asyncio.create_task(session.writing())
        try:
            if not await rpc.has_go_ahead(call):
                await call.read()  # raises what the call ended with
                raise Unreachable(f"{to}: it opened no session")
            patience.reschedule(None)
            opened.set_result(session)
            async for data in call:
                session.take(data)
        except Malformed as error:
            why = Unreachable(f"{to}: what it says breaks the protocol ({error})")
        except grpc.aio.AioRpcError as error:
            if not opened.done():
                raise
            why = rpc.failure(error, to)
        finally:
            call.cancel()
            session.end(why)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def keep() -> None:
        try:
            await links.call(to, hold, deadline)
        except TransportError as error:
            if not opened.done():
                opened.set_exception(error)

    holding = asyncio.create_task(keep())
    try:
        yield await opened
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


class Client:
    """The server's side of one conversation: whose it is, and a way to answer."""

    def __init__(self, sender: PeerId, say: Callable[[Said], Awaitable[None]], pending: int = 8) -> None:
        """`pending`: messages that may wait to be read."""
        self.sender, self.say = sender, say
        self._heard: asyncio.Queue[Open | Fetch] = asyncio.Queue(pending)

    async def hear(self) -> Open | Fetch:
        """What the client says after its task."""
        return await self._heard.get()

    def take(self, said: Open | Fetch) -> None:
        """Raises Malformed(BUSY) if too much waits already."""
        if self._heard.full():
            raise Malformed(Refusal.BUSY, "messages that nobody reads")
        self._heard.put_nowait(said)


Serve = Callable[[Task, Client], Awaitable[None]]
"""Answers one task, with an output or a proof at the end where one is wanted. The client is told what it raises as
Malformed."""


class Service:
    """The server's ends of all sessions."""

    def __init__(self, serve: Serve, limits: Limits) -> None:
        self._serve, self._limits = serve, limits
        self._room = Room(limits.held)
        self.open = 0
        """Sessions that there are now."""

    async def session(
        self, incoming: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[Any]], sender: PeerId
    ) -> None:
        """One session, until the client ends it. Raises Malformed where what comes is none."""
        stream = Stream(write, self._limits)
        arriving = _Arriving(stream, self._room, sender, self._limits)
        self.open += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stream.writing())
                running: dict[int, tuple[Client, asyncio.Task[None]]] = {}

                def over(number: int, size: int, _: asyncio.Task[None]) -> None:
                    self._room.give_back(size, sender)
                    running.pop(number, None)
                    stream.forget(number)

                async for data in incoming:
                    for frame in parse(data):
                        number = frame.conversation
                        if number in running:
                            _tell(*running[number], frame, stream)
                        elif (given := arriving.take(frame, len(running))) is not None:
                            client = Client(sender, partial(stream.say, number), self._limits.pending)
                            task = tasks.create_task(self._answer(given, client))
                            running[number] = client, task
                            task.add_done_callback(partial(over, number, arriving.pop(number)))  # if it began or not
                for _, task in running.values():
                    task.cancel()
                stream.finish()
        finally:
            self.open -= 1
            arriving.drop()

    async def _answer(self, task: Task, client: Client) -> None:
        try:
            await self._serve(task, client)
        except Malformed as error:
            await client.say(Refused(error.reason, error.detail))


def _tell(client: Client, task: asyncio.Task[None], frame: serving_pb2.SessionFrame, stream: Stream) -> None:
    """What a client says after its task. Raises Malformed."""
    if (kind := frame.WhichOneof("said")) == "over":
        task.cancel()
    elif kind not in OF_A_CLIENT:
        raise Malformed(Refusal.MALFORMED, "more than open, fetch and over after a task")
    elif isinstance(said := stream.hear(frame), Open | Fetch):
        client.take(said)


class _Arriving:
    """A session's tasks of which more is to come."""

    def __init__(self, stream: Stream, room: Room, sender: PeerId, limits: Limits) -> None:
        self._stream, self._room, self._sender, self._limits = stream, room, sender, limits
        self._sizes: dict[int, int] = {}
        self._late: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        """When all has to be here, and what happens if nothing more comes."""
        self._newest = 0

    def take(self, frame: serving_pb2.SessionFrame, running: int) -> Task | None:
        """The task, once all of it is here; it is refused where too much is under way. Raises Malformed."""
        number, kind = frame.conversation, frame.WhichOneof("said")
        if number > self._newest:
            self._newest, size = number, announced_bytes(frame)
            if kind != "task":
                raise Malformed(Refusal.MALFORMED, "a conversation that does not begin with a task")
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
