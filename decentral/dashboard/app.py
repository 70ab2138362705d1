"""The page over HTTP, for those who look and change nothing: files of our own, the state, and its changes as they come.

Nothing can be written here. A page of another site learns nothing, whatever name it has its visitor's machine under:
requests have to name this host as a number, as `localhost`, or as it was started with (DNS rebinding), and browsers
that say that a request is another site's are believed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from decentral.dashboard.hub import PERIOD, Hub

MOST_READERS = 32
QUIET = 15.0
"""Seconds after which a reader is told that there is nothing new, so that connections that are gone are noticed."""
RETRY = 1000
"""Milliseconds after which a browser comes again."""

FILES: Mapping[str, str] = {
    "dashboard.css": "text/css",
    "main.js": "text/javascript",
    "store.js": "text/javascript",
    "paint.js": "text/javascript",
    "curves.js": "text/javascript",
    "peers.js": "text/javascript",
    "lanes.js": "text/javascript",
    "serving.js": "text/javascript",
    "words.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""All that there is beside the page itself."""
STATIC = "static"
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{what}-src 'self'" for what in ("script", "style", "img", "connect", "font")),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
SEEN = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")
"""What a reader has: of which board, and up to which revision."""


class Page:
    """`hosts`: names, beside numbers and `localhost`, under which it may be asked."""

    def __init__(self, hub: Hub, hosts: Collection[str] = ()) -> None:
        self._hub, self._hosts = hub, frozenset(host.lower() for host in hosts)
        self._readers = 0
        self._written: tuple[tuple[int, int], str] | None = None

    def app(self) -> Starlette:
        """As ASGI servers take it."""
        app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/static/{name}", self._file),
                Route("/state", self._state),
                Route("/events", self._events),
                Route("/pictures/{name}", self._picture),
            ],
            middleware=[Middleware(Guard, hosts=self._hosts)],
        )
        app.router.redirect_slashes = False
        return app

    async def _index(self, request: Request) -> Response:
        return Response(_read("index.html"), media_type="text/html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return PlainTextResponse("there is no such file", HTTPStatus.NOT_FOUND)
        return Response(_read(name), media_type=FILES[name])

    async def _state(self, request: Request) -> Response:
        return JSONResponse(self._hub.board.since(0))

    async def _picture(self, request: Request) -> Response:
        data = await asyncio.to_thread(self._hub.picture, request.path_params["name"])
        if data is None:
            return PlainTextResponse("there is no such picture", HTTPStatus.NOT_FOUND)
        return Response(data, media_type="image/png")

    async def _events(self, request: Request) -> Response:
        if self._readers >= MOST_READERS:
            said = f"{self._readers} pages are open, and that is all that are sent anything"
            return PlainTextResponse(said, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "5"})
        match = SEEN.fullmatch(request.headers.get("last-event-id", ""))
        seen = int(match[2]) if match and match[1] == self._hub.epoch else 0
        return StreamingResponse(self._changes(seen), media_type="text/event-stream")

    async def _changes(self, seen: int) -> AsyncIterator[str]:
        """What comes while a reader takes what it was sent is one change: a slow one has the newest, and no queue."""
        self._readers += 1
        try:
            yield f"retry: {RETRY}\n\n"
            if not 0 <= seen <= self._hub.board.revision:
                seen = 0
            while not self._hub.closed:
                try:
                    async with asyncio.timeout(QUIET):
                        await self._hub.changed(seen)
                except TimeoutError:
                    yield ": nothing new\n\n"
                    continue
                data, seen = self._delta(seen)
                yield f"id: {self._hub.epoch}-{seen}\ndata: {data}\n\n"
                await asyncio.sleep(PERIOD)
        finally:
            self._readers -= 1

    def _delta(self, seen: int) -> tuple[str, int]:
        """As text, once for all readers that have seen the same."""
        now = self._hub.board.revision
        if self._written is None or self._written[0] != (seen, now):
            change: dict[str, Any] = {"whole": seen == 0, **self._hub.board.since(seen)}
            self._written = (seen, now), json.dumps(change, separators=(",", ":"), allow_nan=False)
        return self._written[1], now


class Guard:
    """Turns away who asks for another host, or for another site; adds what browsers are to hold to."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        refused = None
        if not admits(headers.get("host", ""), self._hosts):
            refused = PlainTextResponse("this host is not known here by that name", HTTPStatus.MISDIRECTED_REQUEST)
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            refused = PlainTextResponse("this page is no other site's", HTTPStatus.FORBIDDEN)
        await (self._app if refused is None else refused)(scope, receive, guarded)


def admits(host: str, hosts: Collection[str]) -> bool:
    """Whether a Host header names a machine in a way that no name server can have made up."""
    name = host.lower()
    if name.startswith("["):
        name, _, port = name[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = name.partition(":")
    if port and not port.isdecimal():
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name in hosts
    return True


def _read(name: str) -> bytes:
    return resources.files("decentral.dashboard").joinpath(STATIC, name).read_bytes()
