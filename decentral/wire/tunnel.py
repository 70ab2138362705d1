"""A way to peers that leads through a gateway: HTTP CONNECT (RFC 9110, section 9.3.6), after which it passes bytes on.

TLS begins behind it: whoever is at the other end is authenticated as without a gateway, and the gateway holds no key.
"""

from __future__ import annotations

import asyncio
import re

from decentral.errors import Barred, Unreachable
from decentral.wire.addresses import split_address

MOST_HEAD = 8 << 10
"""Bytes of what a gateway says first."""
MOST_REASON = 512
"""Bytes of why it leads nowhere."""
STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
BEHIND = ("502", "504")
"""What it says where the gateway is willing and the peer does not answer."""


def channel_options(address: str) -> list[tuple[str, str]]:
    """For a gRPC channel to a gateway, so that it leads on to a peer, again after every broken connection.

    `grpc.http_proxy` would do the same unless `no_proxy` in the environment names the peer: then gRPC goes around the
    gateway without a word.
    """
    return [("grpc.http_connect_server", address)]


async def open_tunnel(via: str, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection through the gateway at `via` to the peer at `address`, on which nothing has been said yet.

    Raises Barred where the gateway is the reason that there is none, and Unreachable where it says that the peer is.
    Has no deadline of its own.
    """
    try:
        reader, writer = await asyncio.open_connection(*split_address(via), limit=MOST_HEAD)
    except OSError as error:
        raise Barred(f"the gateway at {via}: {error}") from error
    try:
        writer.write(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if (status := STATUS.match(head)) is None:
            raise Barred(f"the gateway at {via}: what it says is no answer to CONNECT")
        code = status[1].decode()
        if not code.startswith("2"):
            why = f"the gateway at {via}: {code} {await _reason(reader)}".rstrip()
            raise Unreachable(why) if code in BEHIND else Barred(why)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.transport.abort()
        raise Barred(f"the gateway at {via}: leads nowhere ({error})") from error
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def _reason(reader: asyncio.StreamReader) -> str:
    """Of a refusal, as far as it can be shown to a person."""
    said = b""
    while len(said) < MOST_REASON and (more := await reader.read(MOST_REASON - len(said))):
        said += more
    return "".join(filter(str.isprintable, said.decode("ascii", errors="replace")))
