"""The serving side of a peer's gRPC: authenticate, decode, deliver, encode the answer.

Who calls is read from the connection's certificate at every call, because a connection may outlive it. Requests are
bytes until this room's own code has decoded them, so that whatever is wrong with them becomes a typed refusal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from decentral.errors import Malformed, Refusal, leading
from decentral.wire import codec, rpc
from decentral.wire.limits import Limits
from decentral.wire.mailbox import Mailbox
from decentral.wire.messages import Join, Message, PeerId, Traffic
from decentral.wire.notice import Admitted
from decentral.wire.sealed import Show
from decentral.wire.sessions import METHOD, Serve, Service
from decentral.wire.tally import Tally
from decentral.wire.tensors import ModelDecoder
from decentral.wire.tracing import UNTRACED, Said, Tracing
from decentral.wire.transport import TrafficCount

T = TypeVar("T")
LOOK, IDLE = 0.05, 3
"""Seconds between looks at what is under way, and how many in a row have to find nothing."""
Context = grpc.aio.ServicerContext[Any, Any]


class PeerService:
    """Puts what other peers send into a mailbox. `patience`: seconds that a sender, or the reader, may be silent."""

    def __init__(
        self,
        mailbox: Mailbox,
        traffic: TrafficCount,
        limits: Limits,
        members: Callable[[PeerId], bool],
        *,
        patience: float,
        serve: Serve | None = None,
        show: Show | None = None,
        admitted: Admitted | None = None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._mailbox = mailbox
        self._traffic = traffic
        self._limits = limits
        self._members = members
        self._patience = patience
        self._admitted = admitted or Admitted()
        self._tracing = tracing
        self.tally = Tally()
        self._serving = None if serve is None else Service(serve, limits, show, tally=self.tally, tracing=tracing)
        self._calls: Counter[bytes] = Counter()
        self._running: dict[PeerId, set[asyncio.Timeout]] = {}
        """Calls by who makes them; each is ended by whoever reschedules it."""
        self._pushing: Counter[PeerId] = Counter()
        self._draining = False

    def handlers(self) -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
        """Everything that this peer serves."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        letters = {name: unary(self._guarded(name, self._letters(kind))) for kind, name in rpc.METHODS.items()}
        services = {
            rpc.PEER: letters,
            rpc.EXCHANGE: {"Push": stream(self._guarded("Push", self._push, opening=self._opening))},
            rpc.HEALTH: {"Check": unary(self._guarded("Check", self._check_health))},
        }
        if self._serving is not None:
            session = self._guarded(METHOD, self._session)
            services[rpc.SERVING] = {METHOD: grpc.stream_stream_rpc_method_handler(session)}
        return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())

    def _guarded(
        self,
        method: str,
        serve: Callable[[Any, PeerId, Context], Awaitable[T]],
        opening: Callable[[Any], Awaitable[Any]] | None = None,
    ) -> Callable[[Any, Context], Awaitable[T]]:
        """Authenticates the sender of a call, and turns what breaks a rule into a typed refusal.

        A stream's first message is read (by `opening`) before anything is refused, because grpc.aio loses a status that
        overtakes a write (grpc/grpc issue 36066).
        """

        async def guarded(request: Any, context: Context) -> T:
            certificate = b"".join(context.auth_context().get("x509_pem_cert", ()))
            self._calls[certificate] += 1
            try:
                if self._calls[certificate] > self._limits.calls:
                    raise Malformed(Refusal.BUSY, "too many calls at once")
                if opening is not None:
                    request = await opening(request)
                sender = self._admitted.peer_of(certificate)
                async with self._interruptible(sender):
                    with self._tracing.called(method, sender, partial(_metadata_of, context)):
                        return await serve(request, sender, context)
            except Malformed as error:
                self.tally.refused[error.reason] += 1
                await rpc.refuse(context, error.reason, error.detail)
            finally:
                self._calls[certificate] -= 1
                if not self._calls[certificate]:
                    del self._calls[certificate]

        return guarded

    @asynccontextmanager
    async def _interruptible(self, sender: PeerId) -> AsyncIterator[None]:
        """A call, to its end or until `enforce` ends it. Raises Malformed(REVOKED) then."""
        running, call = self._running.setdefault(sender, set()), asyncio.timeout(None)
        running.add(call)
        try:
            async with call:
                yield
        except TimeoutError:
            if not call.expired():
                raise
            raise Malformed(Refusal.REVOKED, "this identity has been revoked") from None
        finally:
            running.discard(call)
            if not running:
                self._running.pop(sender, None)

    def enforce(self) -> None:
        """Ends the calls of peers that are not admitted any more; those of replaced certificates end by themselves."""
        now = asyncio.get_running_loop().time()
        for sender, calls in self._running.items():
            for call in calls if self._admitted.barred(sender) else ():
                call.reschedule(now)

    def _letters(self, kind: type[Message]) -> Callable[[bytes, PeerId, Context], Awaitable[bytes]]:
        async def take(data: bytes, sender: PeerId, context: Context) -> bytes:
            if kind is not Join:
                self._admit(sender)
            letter, only_deliver = codec.decode_letter(kind, data, self._limits)
            question = self._mailbox.ask(sender, letter)
            if only_deliver:
                return codec.encode_answer(None)
            try:  # a call with a deadline is cancelled by gRPC when that has passed
                async with asyncio.timeout(self._patience if context.time_remaining() is None else None):
                    answer = await question.outcome()
            except TimeoutError as error:
                raise Malformed(Refusal.STALE, "nobody answered") from error
            reply = codec.encode_answer(answer)
            self._traffic.add(codec.traffic_of(answer), len(reply))
            return reply

        return take

    async def _opening(self, request: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
        """A stream's first message, and the rest of the stream."""
        frames = aiter(request)
        try:
            async with asyncio.timeout(self._patience):
                return await anext(frames), frames
        except TimeoutError as error:
            raise Malformed(Refusal.STALE, "the sender fell silent") from error
        except StopAsyncIteration as error:
            raise Malformed(Refusal.MALFORMED, "a stream without a message") from error

    async def _push(self, opened: tuple[bytes, AsyncIterator[bytes]], sender: PeerId, context: Context) -> bytes:
        self._admit(sender)
        if self._pushing[sender] >= self._limits.pending:
            raise Malformed(Refusal.BUSY, "too many models at once")
        self._pushing[sender] += 1
        try:
            first, frames = opened
            decoder = ModelDecoder(self._limits)
            decoder.feed(first)
            if not decoder.complete:
                await context.send_initial_metadata(((rpc.GO_AHEAD, "1"),))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._patience) as patience:
                async for frame in frames:
                    decoder.feed(frame)
                    patience.reschedule(loop.time() + self._patience)
            self._mailbox.ask(sender, decoder.finish())
        except TimeoutError as error:
            raise Malformed(Refusal.STALE, "the sender fell silent") from error
        finally:
            self._pushing[sender] -= 1
        return b""

    async def drain(self, patience: float, *, sessions: bool = False) -> bool:
        """No session is begun from now on, and no task in those that there are; see `GrpcTransport.drain`."""
        self._draining = True
        if self._serving is not None:
            self._serving.draining = not sessions
        loop, idle = asyncio.get_running_loop(), 0
        ends = loop.time() + patience
        while idle < IDLE and loop.time() < ends:
            busy = self.tally.sessions > 0 if sessions else self._serving is not None and not self._serving.idle
            idle = 0 if busy else idle + 1
            await asyncio.sleep(LOOK)
        return idle >= IDLE

    async def _session(self, frames: AsyncIterator[bytes], sender: PeerId, context: Context) -> None:
        self._admit(sender)
        if self._draining:
            raise Malformed(Refusal.DRAINING, "this server ends soon; ask another")
        await context.send_initial_metadata(((rpc.GO_AHEAD, "1"),))

        async def write(data: bytes) -> None:
            try:
                async with asyncio.timeout(self._patience):
                    await context.write(data)
            except TimeoutError as error:
                raise Malformed(Refusal.STALE, "the client does not listen") from error
            self._traffic.add(Traffic.MODEL, len(data))

        assert self._serving is not None
        try:
            await self._serving.session(aiter(frames), write, sender)
        except BaseExceptionGroup as group:
            raise leading(group) or group from None

    async def _check_health(self, data: bytes, sender: PeerId, context: Context) -> bytes:
        try:
            request = health_pb2.HealthCheckRequest.FromString(data)
        except DecodeError as error:
            raise Malformed(Refusal.MALFORMED, "not a HealthCheckRequest") from error
        if request.service not in ("", rpc.PEER, rpc.EXCHANGE):
            await context.abort(grpc.StatusCode.NOT_FOUND)
        kinds = health_pb2.HealthCheckResponse
        reply = kinds(status=kinds.NOT_SERVING if self._draining else kinds.SERVING)
        return bytes(reply.SerializeToString())

    def _admit(self, sender: PeerId) -> None:
        if not self._members(sender):
            raise Malformed(Refusal.NOT_A_MEMBER, "this peer has not admitted you")


def _metadata_of(context: Context) -> Said:
    return cast(Said, context.invocation_metadata() or ())
