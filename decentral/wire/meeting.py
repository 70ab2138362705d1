"""The meeting of joiners and their host over the wire: one stream each, on which both speak in turn.

A joiner pins the host's authority by its token and has no certificate yet, so it says in its first message who it is.
What is said is in `meeting.proto`; who is let in, and what a cluster is, are for `launch` to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from decentral.errors import Malformed, Refusal, TransportError, Unreachable, UserError
from decentral.wire import rpc
from decentral.wire.addresses import split_address
from decentral.wire.authority import AUTHORITY_NAME, MAX_DOCUMENT, SECRET_BYTES
from decentral.wire.certificate import CLOCK_SKEW
from decentral.wire.limits import CHUNK_BYTES, MAX_ADDRESS
from decentral.wire.messages import PROTOCOL_VERSION
from decentral.wire.v1 import meeting_pb2 as pb

SERVICE = "decentral.wire.v1.Meeting"
JOIN = f"/{SERVICE}/Join"
MAX_SAID = 4 * MAX_DOCUMENT
"""Bytes of what a joiner says at once; the authority beside us takes more, with evidence."""
MAX_TOLD = (16 << 20) + CHUNK_BYTES
"""Bytes of what a host says at once: it names all nodes of a cluster."""
MAX_VERSION = 64
HEARTBEAT, SILENCE = 10.0, 45.0
"""Seconds after which a host says again how far the others are, and after which a silent one is taken to be gone."""
FIRST_WORD = 10.0
"""Seconds that a stranger has to say who it is."""
LOOKING = 10.0
"""Seconds for a first look at who is at an address."""

Hear = Callable[[], Awaitable[Any]]
Write = Callable[[bytes], Awaitable[None]]


class Talk:
    """One side of a stream: bounded messages in, messages out, and a deadline for each."""

    def __init__(self, read: Hear, write: Write, heard: type[Any], most: int, origin: str = "") -> None:
        self._read, self._write, self._heard, self._most = read, write, heard, most
        self.origin = origin
        """The host from which the other side has come, as far as the network tells."""

    async def hear(self, *kinds: str, deadline: float) -> Any:
        """What the other side says, which is one of those fields, by `WhichOneof`. None: it has ended the stream.

        Raises Unreachable where nothing comes in time, and Malformed.
        """
        try:
            async with asyncio.timeout(deadline):
                data = await self._read()
        except TimeoutError:
            raise Unreachable(f"silent for {deadline:g} s") from None
        if data is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs forget it
            return None
        if len(data) > self._most:
            raise Malformed(Refusal.TOO_LARGE, f"a message of more than {self._most} bytes")
        try:
            message = self._heard.FromString(data)
        except DecodeError as error:
            raise Malformed(Refusal.MALFORMED, f"not a {self._heard.__name__}") from error
        if message.WhichOneof("said") not in kinds:
            raise Malformed(Refusal.MALFORMED, f"said something else than {' or '.join(kinds)}")
        return message

    async def say(self, message: pb.JoinerSays | pb.HostSays, deadline: float = SILENCE) -> None:
        """Raises Unreachable where the other side does not take it."""
        try:
            async with asyncio.timeout(deadline):
                await self._write(message.SerializeToString())
        except TimeoutError:
            raise Unreachable(f"takes nothing for {deadline:g} s") from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise Unreachable("has ended the stream") from error


def knocked(message: pb.JoinerSays) -> pb.Knock:
    """A joiner's first message, whose fields have their bounds. Raises Malformed."""
    knock = message.knock
    if knock.protocol != PROTOCOL_VERSION:
        words = f"this host speaks version {PROTOCOL_VERSION} of the protocol, and you speak {knock.protocol}"
        raise Malformed(Refusal.PROTOCOL_VERSION, words)
    if len(knock.csr) > MAX_DOCUMENT or len(knock.certificate) > MAX_DOCUMENT:
        raise Malformed(Refusal.TOO_LARGE, f"a document of more than {MAX_DOCUMENT} bytes")
    if len(knock.address) > MAX_ADDRESS or len(knock.version) > MAX_VERSION:
        raise Malformed(Refusal.TOO_LARGE, "an address or a version that is too long")
    if knock.WhichOneof("grounds") is None or (knock.token and len(knock.token) != SECRET_BYTES):
        raise Malformed(Refusal.TOKEN, "no join token")
    apart = knock.time - time.time()
    if not abs(apart) <= CLOCK_SKEW.total_seconds():
        words = f"your clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the host's"
        raise Malformed(Refusal.CLOCK, words)
    return knock


def handlers(receive: Callable[[Talk], Awaitable[None]]) -> grpc.GenericRpcHandler[Any, Any]:
    """The host's service. `receive` talks with one joiner; Malformed ends that with a typed refusal."""

    async def join(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        talk = Talk(context.read, context.write, pb.JoinerSays, MAX_SAID, _host_of(context.peer()))
        try:
            await receive(talk)
        except Malformed as error:
            await rpc.refuse(context, error.reason, error.detail)
        except TransportError as error:
            await context.abort(grpc.StatusCode.CANCELLED, str(error))

    async def joined(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await join(context)

    methods = {"Join": grpc.stream_stream_rpc_method_handler(joined)}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


@contextlib.asynccontextmanager
async def meeting(address: str, authority: bytes) -> AsyncIterator[Talk]:
    """A joiner's stream to the host at `host:port`, whose authority's certificate (PEM) it pins.

    The body is ended by Refused where the host refuses, and by Unreachable where it does not answer or is gone.
    """
    options: list[tuple[str, int | str]] = [
        *rpc.CONNECTION_OPTIONS,
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", MAX_TOLD),
        ("grpc.ssl_target_name_override", AUTHORITY_NAME),
    ]
    pinned = grpc.ssl_channel_credentials(root_certificates=authority)
    async with grpc.aio.secure_channel(address, pinned, options=options) as channel:
        call = channel.stream_stream(JOIN, None, None)(None)
        try:
            yield Talk(call.read, call.write, pb.HostSays, MAX_TOLD)
            await call.done_writing()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOKING):
                    await call.read()  # the host has heard that it is over when it ends the stream too
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                words = "an authority is there that renews certificates and lets nobody join; `decentral host` does"
                raise UserError(f"{address}: {words}") from error
            raise rpc.failure(error, f"the host at {address}") from error
        finally:
            call.cancel()


async def look_at(address: str, authority: bytes) -> None:
    """Returns if the host of that authority (PEM) is at `host:port`. Raises UserError that says what is there instead.

    A token that is whole and a clock that is right are all that this needs; it says nothing of the token's secret.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode())
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(LOOKING):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=AUTHORITY_NAME)
            writer.transport.abort()
    except TimeoutError:
        raise UserError(
            f"{address}: nothing answers within {LOOKING:.0f} s; is the address right, and does a firewall on the way "
            "let this port through?"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise UserError(f"{address}: {_unverified(error)}") from error
    except socket.gaierror as error:
        raise UserError(f"{address}: there is no host of that name here ({error.strerror})") from error
    except ssl.SSLError as error:
        raise UserError(f"{address}: something else listens there than `decentral host` ({error.reason})") from error
    except ConnectionRefusedError as error:
        raise UserError(f"{address}: nobody listens there; does `decentral host` still run, on this port?") from error
    except OSError as error:
        raise UserError(f"{address}: cannot be reached ({error.strerror or error})") from error


NOT_YET, EXPIRED = 9, 10
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if error.verify_code == NOT_YET:
        return f"the host's certificate is not valid yet by this machine's clock ({now}); set the clock right"
    if error.verify_code == EXPIRED:
        return f"the host's certificate has expired by this machine's clock ({now}); set the clock right"
    return "another authority is there than the one that made this token; take both from one line that a host printed"


def _host_of(peer: str) -> str:
    """The host in gRPC's name of who calls: `ipv4:10.0.0.2:5342`, `ipv6:%5Bfd00::2%5D:5342`."""
    address = peer.partition(":")[2].replace("%5B", "[").replace("%5D", "]")
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return host.removeprefix("::ffff:")
