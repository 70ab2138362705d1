"""The transport of a deployment: gRPC over mutual TLS, for every call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio

from decentral.errors import Malformed, Refused, Unreachable
from decentral.wire import codec, rpc
from decentral.wire.certificate import Credentials
from decentral.wire.grpc_service import PeerService
from decentral.wire.identity import Identity
from decentral.wire.limits import Limits
from decentral.wire.links import Links
from decentral.wire.mailbox import Inbox, Mailbox
from decentral.wire.messages import Message, Model, PeerId
from decentral.wire.notice import Admitted
from decentral.wire.sealed import Attest, Offer
from decentral.wire.sessions import Serve
from decentral.wire.tally import Tally
from decentral.wire.tensors import encoded
from decentral.wire.tracing import UNTRACED, Tracing
from decentral.wire.transport import TrafficCount

T = TypeVar("T")

GRACE = 0.2
"""Seconds that running calls have to end when a transport closes."""

MAX_CALLS = 1024
"""Calls served at once, of all senders together."""


class GrpcTransport:
    """See `Transport`. Made by `serve`. A message arrives at least once: a lost reply makes its sender try again."""

    def __init__(
        self,
        identity: Identity,
        credentials: Credentials,
        *,
        limits: Limits,
        members: Callable[[PeerId], bool],
        call_deadline: float,
        serve: Serve | None,
        attest: Attest | None,
        admitted: Admitted,
        tracing: Tracing,
    ) -> None:
        credentials.check(identity.id)
        self.id = identity.id
        self.address = ""
        self.traffic = TrafficCount()
        self._credentials = credentials
        self._limits = limits
        self._call_deadline = call_deadline
        self._mailbox = Mailbox(limits.pending)
        self._links = Links(credentials, admitted=admitted)
        self._attest = attest
        self._tracing = tracing
        self._server = grpc.aio.server(options=rpc.PEER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        self._service = PeerService(
            self._mailbox,
            self.traffic,
            limits,
            members,
            patience=call_deadline,
            serve=serve,
            show=self._show if attest else None,
            admitted=admitted,
            tracing=tracing,
        )
        self._server.add_generic_rpc_handlers(self._service.handlers())

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
        serve: Serve | None = None,
        attest: Attest | None = None,
        admitted: Admitted | None = None,
        tracing: Tracing = UNTRACED,
    ) -> AsyncIterator[GrpcTransport]:
        """Listens at `host:port` (port 0: any) for as long as the body runs.

        `members` tells who may call more than Join; the default is everybody whom the authority let in. `call_deadline`
        (seconds) is how long a call may go without progress. `serve` answers the tasks that clients give in sessions;
        without it there are none; `attest` shows those who ask which machine this is; `admitted`: who may call and is
        called, of those whom the authority let in. `tracing` follows calls, in both directions. Raises UserError if the
        port is busy.
        """
        transport = cls(
            identity,
            credentials,
            limits=limits or Limits(),
            members=members,
            call_deadline=call_deadline,
            serve=serve,
            attest=attest,
            admitted=admitted or Admitted(),
            tracing=tracing,
        )
        try:
            await transport._listen(address)
            yield transport
        finally:
            await transport.close()

    @property
    def sessions(self) -> int:
        """That clients have open."""
        return self.tally.sessions

    @property
    def tally(self) -> Tally:
        """What this server has counted of those who call it."""
        return self._service.tally

    async def _show(self, nonce: bytes) -> Offer:
        assert self._attest is not None
        return await self._attest(nonce, self._credentials.certificate)

    def introduce(self, peer: PeerId, address: str) -> None:
        self._links.introduce(peer, address)

    async def send(self, to: PeerId, message: Message) -> None:
        if isinstance(message, Model):
            await self._push(to, message)
        else:
            await self._ask(to, message, self._call_deadline, only_deliver=True)

    async def request(self, to: PeerId, message: Message, deadline: float) -> Message:
        answer = await self._ask(to, message, deadline, only_deliver=False)
        if answer is None:
            raise Unreachable(f"{to}: an empty answer")
        return answer

    def inbox(self, *kinds: type[Message]) -> Inbox:
        return self._mailbox.inbox(*kinds)

    async def close(self) -> None:
        await self._server.stop(GRACE)
        self._mailbox.close()
        await self._links.close()

    def rotate(self, credentials: Credentials) -> None:
        """Uses another TLS key from now on; who this peer is does not change."""
        credentials.check(self.id)
        self._credentials = credentials
        self._links.rotate(credentials)

    async def drain(self, patience: float, *, sessions: bool = False) -> bool:
        """Takes nothing new from now on, and says so to health checks and clients (DRAINING).

        Returns once no task is under way, and whether that was so within `patience` seconds. With `sessions` those that
        are open go on as they are, and it returns once clients have ended them.
        """
        return await self._service.drain(patience, sessions=sessions)

    def enforce(self) -> None:
        """Ends every call with peers that are not admitted any more."""
        self._service.enforce()
        self._links.enforce()

    async def _listen(self, address: str) -> None:
        shown = self._credentials

        def replacement() -> grpc.ServerCertificateConfiguration | None:
            """None unless the certificate has changed: gRPC frees the old one even while another thread uses it."""
            nonlocal shown
            if shown is self._credentials:
                return None
            shown = self._credentials
            return _certificate_of(shown)

        credentials = grpc.dynamic_ssl_server_credentials(
            _certificate_of(shown),
            replacement,  # type: ignore[arg-type]  # the stubs forget that None is "no change"
            require_client_authentication=True,
        )
        self.address = await rpc.take_port(self._server, address, credentials)
        await self._server.start()

    async def _push(self, to: PeerId, message: Model) -> None:
        model, loop = encoded(message), asyncio.get_running_loop()

        async def push(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> None:
            call = channel.stream_unary(f"/{rpc.EXCHANGE}/Push", None, None)(None, metadata=metadata)
            try:
                for number, frame in enumerate(model.frames()):
                    if call.done() or (number == 1 and not await rpc.has_go_ahead(call)):
                        break  # it was refused: the status says why
                    patience.reschedule(loop.time() + self._call_deadline)  # every chunk that leaves is progress
                    await call.write(frame)
                else:
                    await call.done_writing()
                await call
            finally:
                call.cancel()

        with self._tracing.calling("Push", to) as metadata:
            await self._counted(message, model.size, self._links.call(to, push, self._call_deadline))

    async def _ask(self, to: PeerId, message: Message, deadline: float, *, only_deliver: bool) -> codec.Answer | None:
        data = codec.encode_letter(message, only_deliver=only_deliver)
        name = rpc.METHODS[type(message)]
        loop = asyncio.get_running_loop()

        async def ask(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> bytes:
            left = max((patience.when() or 0.0) - loop.time(), 0.001)
            call = channel.unary_unary(f"/{rpc.PEER}/{name}", None, None)
            return bytes(await call(data, timeout=left, metadata=metadata))

        with self._tracing.calling(name, to) as metadata:
            reply = await self._counted(message, len(data), self._links.call(to, ask, deadline))
        try:
            return codec.decode_answer(reply, self._limits)
        except Malformed as error:
            raise Unreachable(f"{to}: its answer breaks the protocol ({error})") from error

    async def _counted(self, message: Message, size: int, calling: Awaitable[T]) -> T:
        """Counts a message's bytes once the other peer has taken or refused it."""
        try:
            result = await calling
        except Refused:
            self.traffic.add(codec.traffic_of(message), size)
            raise
        self.traffic.add(codec.traffic_of(message), size)
        return result


def _certificate_of(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    """What a server shows of them."""
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key, credentials.certificate)], credentials.authority
    )
