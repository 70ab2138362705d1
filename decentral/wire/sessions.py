"""Both ends of a session: conversations over one stream that a client holds open to a server.

A server bounds how many conversations a session has, how many bytes the tasks of a client and of all sessions take, and
how long a task may take to come; what exceeds that is refused with BUSY, and the client tries again or elsewhere. When
a connection breaks, all that is said over it ends as Unreachable; nothing is said twice. A client that asks for it
learns which machine it talks to, and seals the session for that one alone (`sealed`).
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
from decentral.wire.arriving import Arriving
from decentral.wire.conversation import (
    Challenge,
    Commitment,
    Fetch,
    Keys,
    Open,
    Output,
    Over,
    Proof,
    Reveal,
    Said,
    Shown,
    Task,
)
from decentral.wire.framing import parse
from decentral.wire.limits import Limits
from decentral.wire.links import Links
from decentral.wire.messages import PeerId
from decentral.wire.room import Room
from decentral.wire.sealed import SESSION, Cipher, Greeting, Offer, Show, Speak
from decentral.wire.stream import Stream
from decentral.wire.tally import Tally
from decentral.wire.tracing import UNTRACED, Tracing
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

    def __init__(
        self, call: grpc.aio.StreamStreamCall[bytes, bytes], to: PeerId, limits: Limits, certificate: bytes = b""
    ) -> None:
        """`certificate`: what the server has shown in TLS (PEM)."""
        self.to, self.certificate = to, certificate
        self._stream, self._pending = Stream(call.write, limits), limits.pending
        self._open: dict[int, Conversation] = {}
        self._begun = 0
        self._broken: TransportError | None = None
        self._shown: asyncio.Future[bytes] | None = None

    @property
    def broken(self) -> bool:
        """Whether nothing can be said any more."""
        return self._broken is not None

    @property
    def idle(self) -> bool:
        """Whether no conversation is under way."""
        return not self._open

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

    async def challenge(self, nonce: bytes, deadline: float) -> bytes:
        """Evidence of the server's machine, made for this nonce, before anything else is said.

        Raises Unreachable, Refused; a server that shows none refuses all of the session.
        """
        if self._begun or self._shown is not None or self._broken is not None:
            raise self._broken or ValueError("a session is challenged once, before all conversations")
        self._shown = asyncio.get_running_loop().create_future()
        await self.write(SESSION, Challenge(nonce))
        try:
            async with asyncio.timeout(deadline):
                return await self._shown
        except TimeoutError:
            raise Unreachable(f"{self.to}: showed no evidence within {deadline:g} s") from None

    async def seal(self, keys: bytes, cipher: Cipher, deadline: float) -> None:
        """All that is said from now on is for the machine that was shown alone. Raises Unreachable."""
        try:
            async with asyncio.timeout(deadline):
                await self._stream.say_last(SESSION, Keys(keys), cipher)
        except TimeoutError:
            raise Unreachable(f"{self.to}: took no keys within {deadline:g} s") from None
        except BROKEN as error:
            raise self._broken or Unreachable(f"{self.to}: the connection broke") from error

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
        for frame in parse(self._stream.came(data)):
            if frame.conversation == SESSION:
                self._take_shown(frame)
            elif (conversation := self._open.get(frame.conversation)) is not None:
                self._hear(frame, conversation)

    def _take_shown(self, frame: serving_pb2.SessionFrame) -> None:
        if self._shown is None or self._shown.done():
            raise Malformed(Refusal.MALFORMED, "evidence that nobody has asked for")
        if isinstance(said := self._stream.hear(frame), Shown):
            self._shown.set_result(said.evidence)
        elif said is not None:
            raise Malformed(Refusal.MALFORMED, "something else than evidence, where that was asked for")

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
        if self._shown is not None and not self._shown.done():
            self._shown.set_exception(why)


@asynccontextmanager
async def open_session(
    links: Links, to: PeerId, *, limits: Limits | None = None, deadline: float = 10.0
) -> AsyncIterator[Session]:
    """A session with a server, for as long as the body runs. Raises Refused, Unreachable within `deadline` seconds."""
    opened: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    async def hold(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> None:
        call = channel.stream_stream(f"/{rpc.SERVING}/{METHOD}", None, None)(None)
        session = Session(call, to, limits or Limits(), links.shown(to))
        why: TransportError = Unreachable(f"{links.way(to)}: the connection broke")
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
            why = rpc.failure(error, links.way(to))
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

    def __init__(
        self,
        sender: PeerId,
        say: Callable[[Said], Awaitable[None]],
        pending: int = 8,
        speak: Speak | None = None,
    ) -> None:
        """`pending`: messages that may wait to be read; `speak`: signs as the machine that a sealed session is for."""
        self.sender, self.say, self.speak = sender, say, speak
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
"""Answers one task, with an output or a proof at the end if one is wanted; whoever asked is told of its Malformed."""


class Service:
    """The server's ends of all sessions."""

    def __init__(
        self,
        serve: Serve,
        limits: Limits,
        show: Show | None = None,
        *,
        tally: Tally | None = None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._serve, self._limits, self._show = serve, limits, show
        self._tally, self._tracing = tally or Tally(), tracing
        self._room = Room(limits.held)
        self._showing: dict[PeerId, asyncio.Future[Offer]] = {}
        self._arrivals: set[Arriving] = set()
        self.draining = False
        """Whether tasks are refused that have not begun to come."""

    @property
    def idle(self) -> bool:
        """Whether no task is under way, or on its way in."""
        return not self._tally.waiting and not any(arriving.under_way for arriving in self._arrivals)

    async def session(
        self, incoming: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[Any]], sender: PeerId
    ) -> None:
        """One session, until the client ends it. Raises Malformed where what comes is none."""
        stream = Stream(write, self._limits)
        arriving = Arriving(stream, self._room, sender, self._limits, lambda: self.draining)
        greeting = Greeting(self._show and partial(self._shown_to, sender), stream)
        self._tally.sessions += 1
        self._arrivals.add(arriving)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stream.writing())
                running: dict[int, tuple[Client, asyncio.Task[None]]] = {}

                def over(number: int, size: int, _: asyncio.Task[None]) -> None:
                    self._room.give_back(size, sender)
                    running.pop(number, None)
                    stream.forget(number)

                async for data in incoming:
                    for frame in parse(stream.came(data)):
                        number = frame.conversation
                        if number == SESSION:
                            await greeting.take(frame, arriving.begun)
                        elif number in running:
                            _tell(*running[number], frame, stream)
                        elif (given := arriving.take(frame, len(running))) is not None:
                            client = Client(sender, partial(stream.say, number), self._limits.pending, greeting.speak)
                            task = tasks.create_task(self._answer(given, client))
                            running[number] = client, task
                            task.add_done_callback(partial(over, number, arriving.pop(number)))  # if it began or not
                for _, task in running.values():
                    task.cancel()
                stream.finish()
        finally:
            self._tally.sessions -= 1
            self._arrivals.discard(arriving)
            arriving.drop()

    async def _shown_to(self, sender: PeerId, nonce: bytes) -> Offer:
        """One at a time for each client, and to its end even if that hangs up: a machine makes quotes one by one."""
        assert self._show is not None
        if sender in self._showing:
            raise Malformed(Refusal.BUSY, "evidence is being made for you already")
        making = self._showing[sender] = asyncio.ensure_future(self._show(nonce))
        making.add_done_callback(lambda _: self._showing.pop(sender))
        return await asyncio.shield(making)

    async def _answer(self, task: Task, client: Client) -> None:
        tally = self._tally
        tally.waiting += 1
        try:
            with self._tracing.doing("answer", part=task.part):
                await self._serve(task, client)
        except Malformed as error:
            tally.declined += 1
            tally.refused[error.reason] += 1
            await client.say(Refused(error.reason, error.detail))
        except asyncio.CancelledError:
            tally.called_off += 1
            raise
        else:
            tally.answered += 1
            tally.proofs += task.prove is not None
        finally:
            tally.waiting -= 1


def _tell(client: Client, task: asyncio.Task[None], frame: serving_pb2.SessionFrame, stream: Stream) -> None:
    """What a client says after its task. Raises Malformed."""
    if (kind := frame.WhichOneof("said")) == "over":
        task.cancel()
    elif kind not in OF_A_CLIENT:
        raise Malformed(Refusal.MALFORMED, "more than open, fetch and over after a task")
    elif isinstance(said := stream.hear(frame), Open | Fetch):
        client.take(said)
