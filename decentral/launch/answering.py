"""HTTP answered until it is told to end, in a process whose signals are its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

CONNECTIONS = 256
MOST_HEADERS = 64 << 10
"""Bytes, of a request's first line and headers."""


async def answering(
    app: Any, taken: socket.socket, *, ending: int, end: Callable[[], None] = lambda: None, **options: Any
) -> None:
    """Answers what comes to a socket until it is cancelled; requests under way then have `ending` seconds.

    `end` is called first, for those that would never come to an end by themselves. `options` are uvicorn's. Raises
    ImportError where uvicorn is not installed.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Signals are the process's, which closes what is its own before it ends."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=ending,
        h11_max_incomplete_event_size=MOST_HEADERS,
        **options,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[taken]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        end()
        server.should_exit = True
        await serving
        raise
