"""Gateways that lead to nodes, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from decentral.launch.gateway import listening
from decentral.serving.gateway.tunnel import Bounds, Tunnels
from decentral.trust.anchors import FILE

DEADLINE = 60.0
End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Passing:
    """A gateway in this process. `record`: all bytes that it reads, from whichever side."""

    def __init__(self, tunnels: Tunnels, via: str) -> None:
        self.tunnels, self.via = tunnels, via
        self._running: asyncio.Task[None] | None = None

    async def ask(self, said: bytes) -> End:
        host, _, port = self.via.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        return reader, writer

    async def lead(self, address: str) -> End:
        """A tunnel that is open."""
        end = await self.ask(connect(address))
        assert (await end[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        return end

    async def refusal(self, said: bytes) -> tuple[int, str]:
        """What is answered, which has to be all, with its length."""
        reader, writer = await self.ask(said)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        first, *headers = head.decode().split("\r\n")
        assert f"Content-Length: {len(body)}" in headers
        return int(first.split(" ")[1]), body.decode().strip()

    async def end(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


def connect(address: str) -> bytes:
    return f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()


@pytest.fixture
async def gateway() -> AsyncIterator[Callable[..., Passing]]:
    """`gateway(folder, tunnels=1)`: one that leads to the nodes of a folder, with these bounds."""
    async with AsyncExitStack() as stack:

        def start(folder: Path, **bounds: Any) -> Passing:
            taken = stack.enter_context(listening("127.0.0.1", 0))
            passing = Passing(Tunnels(folder / FILE, Bounds(**bounds)), "{}:{}".format(*taken.getsockname()))
            passing._running = asyncio.create_task(passing.tunnels.serve(taken))
            stack.push_async_callback(passing.end)
            return passing

        async with asyncio.timeout(DEADLINE):
            yield start
