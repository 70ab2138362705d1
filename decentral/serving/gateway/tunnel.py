"""A gateway that cannot read: it passes sealed connections on to the nodes of its cluster, and to nobody else.

It speaks as much HTTP as `CONNECT host:port` needs (RFC 9110, section 9.3.6), holds no key and looks into no byte that
comes after it: TLS, identities and evidence of machines are between client and node. Who may talk to a node is the
node's to say; what is guarded here is where connections lead, how many there are, and how long they may do nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from decentral.errors import UserError
from decentral.trust.anchors import Anchors
from decentral.wire.addresses import joined_address, split_address

CHUNK = 64 << 10
"""Bytes that are passed on at once; also the most that may come before it is said where to."""
REQUEST = re.compile(rb"([!-~]{1,32}) ([!-~]{1,512}) HTTP/1\.[01]")
HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
Address = tuple[str, int]
End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a gateway takes upon itself: how many, and seconds."""

    tunnels: int = 256
    asking: int = 64
    """Callers at once who have not been led anywhere yet."""
    head: float = 10.0
    """To say where to."""
    dialling: float = 5.0
    """For a node to answer: less than a client waits for a session, so that it hears whose fault it is."""
    idle: float = 60.0
    """In which nothing passes either way. Peers send a sign of life every 20 s."""
    stalled: float = 30.0
    """In which one end takes nothing of what the other one sends."""
    ending: float = 10.0
    """For the rest of what one end says, when the other one has nothing more to say."""


class Refusal(Exception):
    """A caller who is led nowhere, and why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why

    def encoded(self) -> bytes:
        body = f"{self.why}\n".encode("ascii", errors="replace")
        head = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", "Connection: close"]
        head += ["Content-Type: text/plain", f"Content-Length: {len(body)}"]
        head += {
            HTTPStatus.METHOD_NOT_ALLOWED: ["Allow: CONNECT"],
            HTTPStatus.SERVICE_UNAVAILABLE: ["Retry-After: 1"],
        }.get(self.status, [])
        return "".join(f"{line}\r\n" for line in (*head, "")).encode() + body


class Tunnels:
    """To the nodes that a trust file names; it is read for every caller, since nodes come and go."""

    def __init__(self, trust: Path, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._trust = trust
        self._asking = 0
        self.open = 0
        """Tunnels that there are now."""

    async def serve(self, taken: socket.socket) -> None:
        """Answers whoever connects to a socket that listens, until it is cancelled; tunnels end with it."""
        async with asyncio.TaskGroup() as callers:

            def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                callers.create_task(self._answer(reader, writer))

            server = await asyncio.start_server(arrived, sock=taken, limit=CHUNK)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From the first byte of a caller to the last; who breaks off hears nothing more."""
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                try:
                    host, port = await self._asked(reader)
                    with self._room():
                        await self._lead((reader, writer), host, port)
                except Refusal as refusal:
                    writer.write(refusal.encoded())
                await self._end(writer)
        finally:
            await _drop(writer)

    async def _asked(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        """Which node a caller wants. Raises Refusal where he may not have it, or there is no time to hear him."""
        if self._asking >= self.bounds.asking:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self._asking} callers are asking where to already")
        self._asking += 1
        try:
            async with asyncio.timeout(self.bounds.head):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, f"nothing was asked within {self.bounds.head:g} s") from None
        except asyncio.LimitOverrunError:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"a request has at most {CHUNK} bytes") from None
        finally:
            self._asking -= 1
        target = target_of(head)
        try:
            known = await asyncio.to_thread(_addresses, self._trust)
        except UserError:  # its words are for whoever runs the gateway
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "who the nodes are cannot be read just now") from None
        if target not in known:
            raise Refusal(HTTPStatus.FORBIDDEN, f"{joined_address(*target)} is no node of this cluster")
        return target

    @contextmanager
    def _room(self) -> Iterator[None]:
        """For one tunnel more. Raises Refusal."""
        if self.open >= self.bounds.tunnels:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.open} tunnels are open, and that is all there may be")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def _lead(self, caller: End, host: str, port: int) -> None:
        """To a node, and until both have nothing more to say. Raises Refusal if it does not answer, OSError."""
        try:
            async with asyncio.timeout(self.bounds.dialling):
                node = await asyncio.open_connection(host, port, limit=CHUNK)
        except TimeoutError:
            detail = f"{joined_address(host, port)} does not answer within {self.bounds.dialling:g} s"
            raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, detail) from None
        except OSError as error:
            detail = f"{joined_address(host, port)} does not answer ({error.strerror or error})"
            raise Refusal(HTTPStatus.BAD_GATEWAY, detail) from None
        try:
            caller[1].write(ESTABLISHED)
            await self._splice(caller, node)
            await self._end(node[1])
        finally:
            await _drop(node[1])

    async def _splice(self, caller: End, node: End) -> None:
        """What one end says to the other, both ways. Raises OSError where one breaks off, or a bound is passed."""
        loop, over = asyncio.get_running_loop(), False

        async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal over
            while data := await reader.read(CHUNK):
                if not over:
                    patience.reschedule(loop.time() + self.bounds.idle)
                writer.write(data)
                async with asyncio.timeout(self.bounds.stalled):
                    await writer.drain()
            writer.write_eof()
            over = True
            patience.reschedule(loop.time() + self.bounds.ending)

        try:
            async with asyncio.timeout(self.bounds.idle) as patience, asyncio.TaskGroup() as ways:
                ways.create_task(passing(caller[0], node[1]))
                ways.create_task(passing(node[0], caller[1]))
        except* OSError as broken:
            raise ConnectionAbortedError("a tunnel broke") from broken

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        """When all that was written has been taken. Raises OSError where it is not."""
        writer.close()
        async with asyncio.timeout(self.bounds.ending):
            await writer.wait_closed()


async def _drop(writer: asyncio.StreamWriter) -> None:
    """Whatever has not been taken. The stream keeps why it broke, and asyncio reports what nobody has looked at."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def target_of(head: bytes) -> Address:
    """Whom a request wants to be led to, from its first byte to the empty line. Raises Refusal."""
    first, *headers = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    request = REQUEST.fullmatch(first)
    if request is None or not all(map(HEADER.fullmatch, headers)):
        raise Refusal(HTTPStatus.BAD_REQUEST, "is no request of HTTP/1.1")
    if request[1] != b"CONNECT":
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "leads to nodes, by CONNECT, and answers nothing itself")
    try:
        return _normal(request[2].decode())
    except UserError:
        raise Refusal(HTTPStatus.BAD_REQUEST, "CONNECT wants host:port") from None


def _addresses(trust: Path) -> frozenset[Address]:
    """Of the nodes that a trust file names. Blocking. Raises UserError."""
    return frozenset(_normal(peer.address) for peer in Anchors.load(trust).peers)


def _normal(address: str) -> Address:
    host, port = split_address(address)
    return host.lower(), port
