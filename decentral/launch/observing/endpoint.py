"""One HTTP endpoint of a node, or of all nodes of a machine: `/metrics`, `/events`, `/about`. It reads files alone.

It answers on a thread of its own with an event loop of its own, so that whoever asks much keeps no peer from its work.
There is nothing to change by it, and no secret in it; but it tells accuracy and who takes part, in plain HTTP: it
listens on loopback unless another host is said.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from decentral.errors import RunDirectoryError, UserError
from decentral.launch.answering import answering
from decentral.launch.gateway import listening
from decentral.run.directory import AnyDirectory
from decentral.wire.addresses import joined_address

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from decentral.launch.observing.watched import Watched

HOST = "127.0.0.1"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""What a browser may call this machine: a page from elsewhere whose name leads here is not answered."""
POLL, ALIVE = 0.1, 15.0
"""Seconds between looks at the journals while somebody listens; and until a line says that there is nothing to say."""
LISTENERS = 64
"""Streams of events at once; who comes after them is told to come again, and `/metrics` is for whoever asks."""
ENDING = 1
"""Seconds for those who still listen when it ends."""


@dataclass(frozen=True, slots=True)
class At:
    """Where an endpoint listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, said: str) -> At:
        """`PORT`, `HOST:PORT` or `[V6]:PORT`. Raises UserError."""
        host, colon, port = said.rpartition(":")
        if not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536 or (colon and not host):
            raise UserError(f"--metrics {said}: must be PORT or HOST:PORT")
        return cls(host.removeprefix("[").removesuffix("]") or HOST, int(port))

    def of_node(self, index: int) -> str:
        """Where that node of the same machine listens, for its own `--metrics`."""
        return str(At.parse(str(self.port + 1 + index)).port)

    @property
    def url(self) -> str:
        return f"http://{joined_address(self.host, self.port)}"


@contextmanager
def exposed(directory: AnyDirectory, said: str | None, index: int | None = None) -> Iterator[None]:
    """Answers for as long as the body runs; None: there is no endpoint. `index`: of one node, else of all.

    Raises UserError naming a port that is busy, or the extra that is not installed.
    """
    if said is None:
        yield
        return
    at = At.parse(said)
    try:
        import prometheus_client  # noqa: F401  that it is there
        import uvicorn  # noqa: F401

        from decentral.launch.observing.watched import Watched
    except ImportError as error:
        raise UserError(f"--metrics needs {error.name}: pip install 'decentral[metrics]'") from error
    endpoint = Endpoint(Watched(directory, index))
    with listening(at.host, at.port, option="--metrics") as taken:
        ended = asyncio.Event()
        started: list[asyncio.AbstractEventLoop] = []
        ready = threading.Event()

        async def answer() -> None:
            started.append(asyncio.get_running_loop())
            ready.set()
            allowed = LOOPBACK if at.host in LOOPBACK or at.host == "::1" else ("*",)
            serving = asyncio.create_task(answering(endpoint.app(allowed), taken, ending=ENDING, end=endpoint.end))
            await ended.wait()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

        thread = threading.Thread(target=lambda: asyncio.run(answer()), name="metrics", daemon=True)
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            started[0].call_soon_threadsafe(ended.set)
            thread.join()


class Endpoint:
    """The answers. One loop asks them all, so that lines are taken in one after another."""

    def __init__(self, watched: Watched) -> None:
        from decentral.launch.observing.exposition import Exposition

        self._watched, self._exposition = watched, Exposition(watched.metrics)
        self._ended = False
        self._listeners = 0
        self._looked = -math.inf
        """When somebody who listens last had the journals read: however many listen, once is enough for all."""

    def app(self, hosts: tuple[str, ...] = ("*",)) -> Starlette:
        """As ASGI servers take it. `hosts`: what it may be called in requests."""
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route

        routes = [
            Route("/metrics", self._metrics),
            Route("/events", self._events),
            Route("/about", self._about),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
            exception_handlers={RunDirectoryError: _damaged},
        )

    def end(self) -> None:
        """Those who listen to events are told the last ones."""
        self._ended = True

    async def _metrics(self, request: Request) -> Response:
        from starlette.responses import Response

        from decentral.launch.observing.exposition import MEDIA

        self._watched.lines.poll()
        self._watched.judge()
        return Response(self._exposition.text(), headers={"Content-Type": MEDIA})

    async def _about(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse(self._watched.about())

    async def _events(self, request: Request) -> Response:
        """Server-sent events: from the beginning, or after the line that `Last-Event-ID` names."""
        from starlette.responses import PlainTextResponse, StreamingResponse

        if self._listeners >= LISTENERS:
            said = f"{self._listeners} listen to events, and that is all that are told\n"
            return PlainTextResponse(said, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "5"})
        last = request.headers.get("last-event-id", "0")
        self._watched.lines.poll()
        number = int(last) if last.isdecimal() and len(last) < 16 else 0
        if number > len(self._watched.lines):  # of a launcher that has counted otherwise
            number = 0
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(number), media_type="text/event-stream", headers=headers)

    async def _stream(self, number: int) -> AsyncIterator[bytes]:
        self._listeners += 1
        try:
            async for told in self._told(number):
                yield told
        finally:
            self._listeners -= 1

    async def _told(self, number: int) -> AsyncIterator[bytes]:
        """No more is read from the files than has been taken by who listens."""
        lines, quiet, now = self._watched.lines, 0.0, asyncio.get_running_loop().time
        yield b"retry: 1000\n\n"
        while True:
            ending = self._ended
            if ending or now() - self._looked >= POLL / 2:
                self._looked = now()
                lines.poll()
            while found := lines.after(number):
                number, quiet = found[-1][0], 0.0
                yield b"".join(b"id: %d\ndata: %b\n\n" % line for line in found)
            if ending:
                return
            await asyncio.sleep(POLL)
            quiet += POLL
            if quiet >= ALIVE:
                quiet = 0.0
                yield b": alive\n\n"


async def _damaged(request: Request, error: Exception) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{error}\n", 500)
