"""The transport of a deployment: gRPC over mutual TLS, for every call.

Who calls is read from the certificate of the connection, at every call, because a connection may outlive it. Who is
called is checked before gRPC dials: we shake hands once by ourselves, verify that the certificate is bound to the
identity that we want, and then let gRPC trust this one certificate only, so that not even the authority can put
somebody else in its place.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from decentral.errors import Malformed, Refusal, Refused, Unreachable
from decentral.wire import codec, rpc
from decentral.wire.certificate import Credentials, host_name, peer_id_of
from decentral.wire.identity import Identity
from decentral.wire.limits import MAX_FRAME, MAX_HEADER, MAX_LETTER, Limits
from decentral.wire.mailbox import Inbox, Mailbox, Question
from decentral.wire.messages import Join, Leave, Membership, Message, Model, PeerId, Ping
from decentral.wire.tensors import ModelDecoder, encoded
from decentral.wire.transport import Envelope, TrafficCount

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

PEER = "decentral.wire.v1.Peer"
EXCHANGE = "decentral.wire.v1.ModelExchange"
HEALTH = "grpc.health.v1.Health"
METHODS: dict[type[Message], str] = {Join: "Join", Ping: "Ping", Membership: "Exchange", Leave: "Leave"}

GO_AHEAD = "decentral-go-ahead"
SILENT = "the sender fell silent"

ATTEMPTS = 3
PAUSE = 0.05
"""Seconds before the second attempt of a call; doubled for each further one, and drawn between half of it and all."""

GRACE = 0.2
"""Seconds that running calls have to end when a transport closes."""

OPTIONS: tuple[tuple[str, int], ...] = (
    *rpc.CONNECTION_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, with no memory of a failed one
    ("grpc.max_receive_message_length", max(MAX_FRAME, MAX_LETTER)),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(slots=True)
class _Link:
    """A channel to a peer, and the one certificate (PEM) that it trusts."""

    channel: grpc.aio.Channel
    certificate: bytes


@dataclass(slots=True)
class _Contact:
    """Where a peer is, and the link to it; one dials at a time."""

    address: str
    link: _Link | None = None
    dialling: asyncio.Lock = field(default_factory=asyncio.Lock)


class GrpcTransport:
    """See `Transport`. Made by `serve`. A message arrives at least once: a lost reply makes its sender try again."""

    def __init__(
        self,
        identity: Identity,
        credentials: Credentials,
        limits: Limits,
        members: Callable[[PeerId], bool],
        call_deadline: float,
    ) -> None:
        credentials.check(identity.id)
        self.id = identity.id
        self.address = ""
        self.traffic = TrafficCount()
        self._limits = limits
        self._members = members
        self._call_deadline = call_deadline
        self._mailbox = Mailbox(limits.pending)
        self._contacts: dict[PeerId, _Contact] = {}
        self._pushing: Counter[PeerId] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        self._credentials = credentials
        self._tls = _client_context(credentials)
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=1024)

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        address: str,
        identity: Identity,
        credentials: Credentials,
        *,
        limits: Limits | None = None,
        members: Callable[[PeerId], bool] = lambda peer: True,
        call_deadline: float = 30.0,
    ) -> AsyncIterator[GrpcTransport]:
        """Listens at `host:port` (port 0: any) for as long as the body runs.

        `members` tells who may call more than Join; the default is everybody whom the authority let in. `call_deadline`
        (seconds) is how long a call may go without progress. Raises UserError if the port is busy.
        """
        transport = cls(identity, credentials, limits or Limits(), members, call_deadline)
        try:
            await transport._listen(address)
            yield transport
        finally:
            await transport.close()

    # ---- the seam ------------------------------------------------------------------------------------------------

    def introduce(self, peer: PeerId, address: str) -> None:
        contact = self._contacts.get(peer)
        if contact is None:
            self._contacts[peer] = _Contact(address)
        elif contact.address != address:
            contact.address = address
            self._hang_up(contact)

    async def send(self, to: PeerId, message: Message) -> None:
        if not isinstance(message, Model):
            await self._letter(to, message, self._call_deadline, only_deliver=True)
            return
        model = encoded(message)
        loop = asyncio.get_running_loop()

        async def push(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> None:
            call = channel.stream_unary(f"/{EXCHANGE}/Push", None, None)()
            try:
                for number, frame in enumerate(model.frames()):
                    if call.done() or (number == 1 and not await _has_go_ahead(call)):
                        break  # it was refused: the status says why
                    patience.reschedule(loop.time() + self._call_deadline)  # every chunk that leaves is progress
                    await call.write(frame)
                else:
                    await call.done_writing()
                await call
            finally:
                call.cancel()

        await self._call(to, push, self._call_deadline, lambda: self.traffic.add(codec.traffic_of(message), model.size))

    async def request(self, to: PeerId, message: Message, deadline: float) -> Message:
        answer = await self._letter(to, message, deadline, only_deliver=False)
        if answer is None:
            raise Unreachable(f"{to}: an empty answer")
        return answer

    def inbox(self, *kinds: type[Message]) -> Inbox:
        return self._mailbox.inbox(*kinds)

    async def close(self) -> None:
        await self._server.stop(GRACE)
        self._mailbox.close()
        for contact in self._contacts.values():
            if contact.link is not None:
                await contact.link.channel.close(None)
                contact.link = None
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def rotate(self, credentials: Credentials) -> None:
        """Uses another TLS key from now on; who this peer is does not change."""
        credentials.check(self.id)
        self._credentials = credentials
        self._tls = _client_context(credentials)
        for contact in self._contacts.values():
            self._hang_up(contact)

    # ---- calling -------------------------------------------------------------------------------------------------

    async def _letter(
        self, to: PeerId, message: Message, deadline: float, *, only_deliver: bool
    ) -> codec.Answer | None:
        data = codec.encode_letter(message, only_deliver=only_deliver)
        method = METHODS[type(message)]

        async def ask(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> bytes:
            left = (patience.when() or 0.0) - asyncio.get_running_loop().time()
            reply: bytes = await channel.unary_unary(f"/{PEER}/{method}", None, None)(data, timeout=max(left, 0.001))
            return reply

        reply = await self._call(to, ask, deadline, lambda: self.traffic.add(codec.traffic_of(message), len(data)))
        try:
            return codec.decode_answer(reply, self._limits)
        except Malformed as error:
            raise Unreachable(f"{to}: its answer breaks the protocol ({error})") from error

    async def _call(
        self,
        to: PeerId,
        call: Callable[[grpc.aio.Channel, asyncio.Timeout], Awaitable[T]],
        deadline: float,
        count: Callable[[], None],
    ) -> T:
        """Makes a call, again if the connection broke. Its bytes count once, when it was taken or refused."""
        contact = self._contacts.get(to)
        if contact is None:
            raise Unreachable(f"{to}: no address is known")
        broken = Unreachable(f"{to}: the connection broke")
        try:
            async with asyncio.timeout(deadline) as patience:
                for attempt in range(ATTEMPTS):
                    if attempt:
                        await asyncio.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311
                    link = await self._reach(to, contact)
                    try:
                        result = await call(link.channel, patience)
                    except grpc.aio.AioRpcError as error:
                        failure = rpc.failure(error, to)
                        if isinstance(failure, Refused):
                            count()
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise failure from error
                        broken = Unreachable(str(failure))
                        if contact.link is link:
                            self._hang_up(contact)
                    else:
                        count()
                        return result
        except TimeoutError:
            raise Unreachable(f"{to}: silent for {deadline:g} s") from None
        raise broken

    async def _reach(self, to: PeerId, contact: _Contact) -> _Link:
        async with contact.dialling:
            if contact.link is not None:
                try:
                    peer_id_of(contact.link.certificate)
                    return contact.link
                except Malformed:  # it has expired; the other peer may have a new one
                    self._hang_up(contact)
            contact.link = await self._dial(to, contact.address)
            return contact.link

    async def _dial(self, to: PeerId, address: str) -> _Link:
        """A channel that trusts the certificate which `to` shows now. Raises Unreachable."""
        host, port = rpc.split_address(address)
        try:
            _, writer = await asyncio.open_connection(host, port, ssl=self._tls, server_hostname=host_name(to))
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            certificate = ssl.DER_cert_to_PEM_cert(shown).encode()
            if peer_id_of(certificate) != to:
                raise Unreachable(f"{to}: somebody else answers at {address}")
        except (OSError, Malformed) as error:
            raise Unreachable(f"{to}: {address}: {error}") from error
        own = self._credentials
        trusted = grpc.ssl_channel_credentials(certificate, own.key, own.certificate)
        options = [*OPTIONS, ("grpc.ssl_target_name_override", host_name(to))]
        return _Link(grpc.aio.secure_channel(address, trusted, options), certificate)

    def _hang_up(self, contact: _Contact) -> None:
        """Forgets a link; calls that still run over it may end."""
        if contact.link is not None:
            task = asyncio.ensure_future(contact.link.channel.close(self._call_deadline))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            contact.link = None

    # ---- being called --------------------------------------------------------------------------------------------

    async def _listen(self, address: str) -> None:
        peer = {name: grpc.unary_unary_rpc_method_handler(self._answering(kind)) for kind, name in METHODS.items()}
        exchange = {"Push": grpc.stream_unary_rpc_method_handler(self._push)}
        check = grpc.unary_unary_rpc_method_handler(self._guarded(self._check_health))
        services = {PEER: peer, EXCHANGE: exchange, HEALTH: {"Check": check}}
        handlers = tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
        self._server.add_generic_rpc_handlers(handlers)

        def shown() -> grpc.ServerCertificateConfiguration:
            own = self._credentials
            return grpc.ssl_server_certificate_configuration([(own.key, own.certificate)], own.authority)

        credentials = grpc.dynamic_ssl_server_credentials(shown(), shown, require_client_authentication=True)
        self.address = await rpc.take_port(self._server, address, credentials)
        await self._server.start()

    def _guarded(self, serve: Callable[[Any, PeerId, Context], Awaitable[T]]) -> Callable[[Any, Context], Awaitable[T]]:
        """Authenticates the sender of a call, and turns what breaks a rule into a typed refusal."""

        async def guarded(request: Any, context: Context) -> T:
            try:
                certificate = b"".join(context.auth_context().get("x509_pem_cert", ()))
                return await serve(request, peer_id_of(certificate), context)
            except Malformed as error:
                await rpc.refuse(context, error.reason, error.detail)

        return guarded

    def _answering(self, kind: type[Message]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def take_letter(data: bytes, sender: PeerId, context: Context) -> bytes:
            if kind is not Join:
                self._admit(sender)
            letter, only_deliver = codec.decode_letter(kind, data, self._limits)
            question = self._deliver(sender, letter)
            if only_deliver:
                return codec.encode_answer(None)
            async with asyncio.timeout(context.time_remaining() or self._call_deadline):
                message = await question.outcome()
            answer = codec.encode_answer(message)
            self.traffic.add(codec.traffic_of(message), len(answer))
            return answer

        return self._guarded(take_letter)

    async def _push(self, frames: object, context: Context) -> bytes:
        """Reads the first message before anything is refused: grpc.aio loses a status that overtakes a write."""
        try:
            async with asyncio.timeout(self._call_deadline):
                first = await context.read()
        except TimeoutError:
            await rpc.refuse(context, Refusal.STALE, SILENT)
        return await self._guarded(self._take_model)(first, context)

    async def _take_model(self, frame: Any, sender: PeerId, context: Context) -> bytes:
        self._admit(sender)
        if self._pushing[sender] >= self._limits.pending:
            raise Malformed(Refusal.BUSY, "too many models at once")
        self._pushing[sender] += 1
        try:
            decoder = ModelDecoder(self._limits)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._call_deadline) as patience:
                if frame is not grpc.aio.EOF:
                    decoder.feed(frame)
                    if not decoder.complete:
                        await context.send_initial_metadata(((GO_AHEAD, "1"),))
                    frame = await context.read()
                while frame is not grpc.aio.EOF:
                    decoder.feed(frame)
                    frame = await context.read()
                    patience.reschedule(loop.time() + self._call_deadline)
            self._deliver(sender, decoder.finish())
        except TimeoutError as error:
            raise Malformed(Refusal.STALE, SILENT) from error
        finally:
            self._pushing[sender] -= 1
        return b""

    async def _check_health(self, data: bytes, sender: PeerId, context: Context) -> bytes:
        try:
            request = health_pb2.HealthCheckRequest.FromString(data)
        except DecodeError as error:
            raise Malformed(Refusal.MALFORMED, "not a HealthCheckRequest") from error
        if request.service not in ("", PEER, EXCHANGE):
            await context.abort(grpc.StatusCode.NOT_FOUND)
        reply = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        encoded_reply: bytes = reply.SerializeToString()
        return encoded_reply

    def _admit(self, sender: PeerId) -> None:
        if not self._members(sender):
            raise Malformed(Refusal.NOT_A_MEMBER, "this peer has not admitted you")

    def _deliver(self, sender: PeerId, message: Message) -> Question:
        question = Question()
        self._mailbox.deliver(Envelope(sender, message, question.settle, question.settle))
        return question


async def _has_go_ahead(call: grpc.aio.StreamUnaryCall[Any, Any]) -> bool:
    """Whether the receiver took the header; if not, the call ends with its refusal."""
    return any(key == GO_AHEAD for key, _ in await call.initial_metadata())


def _client_context(credentials: Credentials) -> ssl.SSLContext:
    """For the first handshake with a peer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=credentials.authority.decode())
    with tempfile.NamedTemporaryFile() as file:  # mode 0600; the ssl module reads keys from files only
        file.write(credentials.certificate + credentials.key)
        file.flush()
        context.load_cert_chain(file.name)
    context.set_alpn_protocols(["h2"])
    return context
