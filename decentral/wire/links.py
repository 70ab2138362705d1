"""Connections to other peers, each to one certificate that is known to be the peer's own.

gRPC alone would trust every certificate that the authority signed in a peer's name. So we shake hands once by
ourselves, check that the peer's identity has certified the key that is shown, and let gRPC trust this one certificate
only: not even the authority can put somebody else in a peer's place.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import grpc.aio

from decentral.errors import Malformed, Silent, Unreachable, UserError
from decentral.wire import rpc
from decentral.wire.addresses import split_address
from decentral.wire.certificate import Credentials, host_name, show
from decentral.wire.messages import PeerId
from decentral.wire.notice import Admitted
from decentral.wire.tunnel import channel_options, open_tunnel

T = TypeVar("T")

NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ENETDOWN, socket.EAI_AGAIN}
"""What our own machine says where nothing comes back from another one."""
HALF_OPEN = 5.0
"""Seconds of silence after which a connection is not trusted to lead anywhere: the next call dials anew. TCP alone
would send again ever more rarely, long after the other side can be reached."""
ATTEMPTS = 3
PAUSE = 0.05
"""Seconds before the second attempt of a call; doubled for the third, and drawn between half of it and all."""


@dataclass(slots=True)
class _Link:
    """A channel to a peer, the one certificate (PEM) that it trusts, and the calls that run over it now."""

    channel: grpc.aio.Channel
    certificate: bytes
    calls: set[asyncio.Timeout] = field(default_factory=set)
    """Each is ended by whoever reschedules it."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, call: asyncio.Timeout) -> None:
        self.calls.add(call)
        self.idle.clear()

    def end(self, call: asyncio.Timeout) -> None:
        self.calls.discard(call)
        if not self.calls:
            self.idle.set()


@dataclass(slots=True)
class _Contact:
    """Where a peer is, and the link to it; one dials at a time."""

    address: str
    link: _Link | None = None
    dialling: asyncio.Lock = field(default_factory=asyncio.Lock)


class Links:
    """The links of one peer. `via`: the gateway (host:port) through which it comes to all others; None: directly.

    `admitted`: with whom there are any.
    """

    def __init__(self, credentials: Credentials, via: str | None = None, admitted: Admitted | None = None) -> None:
        self._credentials, self._via, self._admitted = credentials, via, admitted or Admitted()
        self._tls = _first_handshake(credentials)
        self._contacts: dict[PeerId, _Contact] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def introduce(self, peer: PeerId, address: str) -> None:
        contact = self._contacts.get(peer)
        if contact is None:
            self._contacts[peer] = _Contact(address)
        elif contact.address != address:
            contact.address = address
            self._hang_up(contact)

    def rotate(self, credentials: Credentials) -> None:
        """Shows another certificate from now on."""
        self._credentials = credentials
        self._tls = _first_handshake(credentials)
        for contact in self._contacts.values():
            self._hang_up(contact)

    def enforce(self) -> None:
        """Ends what is said to peers that are not admitted any more."""
        now = asyncio.get_running_loop().time()
        for peer, contact in self._contacts.items():
            if self._admitted.barred(peer) and contact.link is not None:
                for call in contact.link.calls:
                    call.reschedule(now)
                self._hang_up(contact)

    def way(self, peer: PeerId) -> str:
        """A peer, and how one comes to it, as errors name it."""
        return peer if self._via is None else f"{peer}: through the gateway at {self._via}"

    def shown(self, peer: PeerId) -> bytes:
        """The certificate (PEM) to which the link to a peer is pinned that was reached last; empty if there is none."""
        contact = self._contacts.get(peer)
        return b"" if contact is None or contact.link is None else contact.link.certificate

    def redial(self, peer: PeerId) -> None:
        """The next call shakes hands anew: a connection outlives the certificate that was shown when it began."""
        if (contact := self._contacts.get(peer)) is not None:
            self._hang_up(contact)

    async def close(self) -> None:
        for contact in self._contacts.values():
            if contact.link is not None:
                await contact.link.channel.close(None)
                contact.link = None
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def call(
        self, to: PeerId, invoke: Callable[[grpc.aio.Channel, asyncio.Timeout], Awaitable[T]], deadline: float
    ) -> T:
        """What a call returns; made again, twice at most, if the connection breaks.

        `invoke` is given a channel and the timeout that ends it, `deadline` seconds from now, which it may move. Raises
        Unreachable, at once if nobody listens or the peer is not admitted, Silent if nothing comes back, or Refused.
        """
        contact = self._contacts.get(to)
        if contact is None:
            raise Unreachable(f"{to}: no address is known")
        broken = Unreachable(f"{self.way(to)}: the connection broke")
        used: _Link | None = None
        try:
            async with asyncio.timeout(deadline) as patience:
                for attempt in range(ATTEMPTS):
                    if attempt:
                        await asyncio.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311
                    link = used = await self._reach(to, contact)
                    barred = asyncio.timeout(None)
                    link.begin(barred)
                    try:
                        async with barred:
                            return await invoke(link.channel, patience)
                    except TimeoutError:
                        if barred.expired():
                            raise _not_admitted(self.way(to)) from None
                        raise
                    except grpc.aio.AioRpcError as error:
                        failure = rpc.failure(error, self.way(to))
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise failure from error
                        broken = Unreachable(str(failure))
                        if contact.link is link:
                            self._hang_up(contact)
                    finally:
                        link.end(barred)
        except TimeoutError:
            broken = Silent(f"{self.way(to)}: silent for {deadline:g} s")
        except Silent as silent:
            broken = silent
        if isinstance(broken, Silent) and used is not None and contact.link is used and deadline >= HALF_OPEN:
            self._hang_up(contact)
        raise broken from None

    async def _reach(self, to: PeerId, contact: _Contact) -> _Link:
        if self._admitted.barred(to):
            raise _not_admitted(self.way(to))
        async with contact.dialling:
            if contact.link is not None:
                try:
                    self._admitted.peer_of(contact.link.certificate)
                    return contact.link
                except Malformed:  # it has expired or was replaced; the other peer may have a new one
                    self._hang_up(contact)
            contact.link = await self._dial(to, contact.address)
            return contact.link

    async def _dial(self, to: PeerId, address: str) -> _Link:
        """A channel that trusts the certificate which `to` shows now. Raises Unreachable."""
        try:
            certificate = ssl.DER_cert_to_PEM_cert(await self._certificate(to, address)).encode()
            if self._admitted.peer_of(certificate) != to:
                raise Unreachable(f"{self.way(to)}: somebody else answers at {address}")
        except (OSError, ValueError, UserError, Malformed) as error:  # peers say themselves where they are
            kind = Silent if isinstance(error, OSError) and error.errno in NO_WAY else Unreachable
            raise kind(f"{self.way(to)}: {address}: {str(error) or type(error).__name__}") from error
        own = self._credentials
        trusted = grpc.ssl_channel_credentials(certificate, own.key, own.certificate)
        options: list[tuple[str, int | str]] = [*rpc.PEER_OPTIONS, ("grpc.ssl_target_name_override", host_name(to))]
        if self._via is not None:
            options += channel_options(address)
        return _Link(grpc.aio.secure_channel(self._via or address, trusted, options), certificate)

    async def _certificate(self, to: PeerId, address: str) -> bytes:
        """The certificate (DER) that a peer shows to whom it lets in. Raises OSError and Unreachable."""
        if self._via is None:
            host, port = split_address(address)
            _, writer = await asyncio.open_connection(host, port, ssl=self._tls, server_hostname=host_name(to))
        else:
            _, writer = await open_tunnel(self._via, address)
        try:
            if self._via is not None:
                await writer.start_tls(self._tls, server_hostname=host_name(to))
            shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return shown
        finally:
            writer.transport.abort()

    def _hang_up(self, contact: _Contact) -> None:
        """Forgets a link; calls that still run over it go on to their own end."""
        if contact.link is not None:
            task = asyncio.ensure_future(_retire(contact.link))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            contact.link = None


def _not_admitted(who: str) -> Unreachable:
    return Unreachable(f"{who}: its identity has been revoked")


async def _retire(link: _Link) -> None:
    try:
        if link.calls:
            await link.idle.wait()
    finally:
        await link.channel.close(None)


def _first_handshake(credentials: Credentials) -> ssl.SSLContext:
    """Trusts the authority's certificates, and shows our own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=credentials.authority.decode())
    show(context, credentials.certificate, credentials.key)
    context.set_alpn_protocols(["h2"])
    return context
