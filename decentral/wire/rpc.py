"""What every gRPC server and client of ours shares: how refusals travel, how a port is taken, how errors are read.

A refusal is a failed status with the message `Refused` as a binary trailer, in every service alike, so that it ends a
stream that is still being sent too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from decentral.errors import Refusal, Refused, Silent, TransportError, Unreachable, UserError
from decentral.wire.addresses import split_address
from decentral.wire.limits import MAX_LETTER, MAX_SEALED
from decentral.wire.messages import Join, Leave, Membership, Message, Ping, Progress, Resend
from decentral.wire.refusals import refused_in, refused_out
from decentral.wire.v1 import messages_pb2 as pb

REFUSAL_TRAILER = "decentral-refusal-bin"

CONNECTION_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # what is retried, and when not, is decided in one place: the transport
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # despite its name: how long a handshake may take on a busy machine
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


PEER_OPTIONS: tuple[tuple[str, int], ...] = (
    *CONNECTION_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, with no memory of a failed one
    ("grpc.max_receive_message_length", max(MAX_SEALED, MAX_LETTER)),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
"""Of channels and servers between peers."""

PEER = "decentral.wire.v1.Peer"
EXCHANGE = "decentral.wire.v1.ModelExchange"
SERVING = "decentral.wire.v1.Serving"
HEALTH = "grpc.health.v1.Health"
METHODS: dict[type[Message], str] = {
    Join: "Join",
    Ping: "Ping",
    Membership: "Exchange",
    Progress: "Progress",
    Resend: "Resend",
    Leave: "Leave",
}
GO_AHEAD = "decentral-go-ahead"
"""Initial metadata of a receiver that has taken a model's header, or opened a session."""


async def refuse(context: grpc.aio.ServicerContext[Any, Any], reason: Refusal, detail: str = "") -> NoReturn:
    """Ends a call with a typed refusal."""
    trailer = refused_out(Refused(reason, detail)).SerializeToString()
    await context.abort(
        grpc.StatusCode.FAILED_PRECONDITION, reason.name, trailing_metadata=((REFUSAL_TRAILER, trailer),)
    )
    raise AssertionError("abort returned")


def failure(error: grpc.aio.AioRpcError, peer: str) -> TransportError:
    """What a failed call means: the typed refusal that came with it, or that nobody answered."""
    for key, value in cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()):
        if key == REFUSAL_TRAILER and isinstance(value, bytes):
            try:
                return refused_in(pb.Refused.FromString(value))
            except DecodeError:
                return Refused(Refusal.UNSPECIFIED)
    kind = Silent if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else Unreachable
    return kind(f"{peer}: {error.code().name.lower()} {error.details() or ''}".rstrip())


async def has_go_ahead(call: grpc.aio.StreamUnaryCall[Any, Any] | grpc.aio.StreamStreamCall[Any, Any]) -> bool:
    """Whether the receiver goes on with a stream; if not, the call ends with its refusal."""
    return any(key == GO_AHEAD for key, _ in await call.initial_metadata())


async def take_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> str:
    """Binds a server and returns its address with the port it got. Raises UserError if the port is busy.

    Ports are shared (SO_REUSEPORT), because a launcher may hold one for its child. Somebody who listens there already
    would therefore not be noticed when binding, so we knock first.
    """
    host, port = split_address(address)
    if port:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout=1.0)
        except (OSError, TimeoutError):
            writer = None
        if writer is not None:
            writer.close()
            raise UserError(f"{address}: the port is busy; another program listens there already")
    try:
        bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise UserError(f"{address}: the port cannot be taken ({error})") from error
    return f"{address.rpartition(':')[0]}:{bound}"
