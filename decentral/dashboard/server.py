"""The page as a process: where it listens, what it follows, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from decentral.dashboard.source import Source
from decentral.errors import UserError
from decentral.launch.gateway import listening
from decentral.lifetime import end_on_sigterm
from decentral.wire.addresses import joined_address

ENDING = 2
"""Seconds for requests that are under way when it is told to end."""


async def serve_dashboard(
    source: Source, told: Callable[[str], None], *, host: str = "127.0.0.1", port: int = 0
) -> None:
    """Shows a source until it is cancelled, or SIGTERM comes; `told` hears the URL once it listens. Port 0: any free.

    Raises UserError for what cannot be used.
    """
    try:
        import uvicorn  # noqa: F401  that it is there

        from decentral.dashboard.app import Page
    except ImportError as error:
        raise UserError(f"the dashboard needs {error.name}: pip install 'decentral[dashboard]'") from error
    from decentral.dashboard.hub import Hub
    from decentral.launch.answering import answering

    end_on_sigterm()
    with contextlib.closing(source), listening(host, port) as taken:
        hub = Hub(source)
        app = Page(hub, [host]).app()
        async with asyncio.TaskGroup() as tasks:  # a page that follows nothing any more is not shown
            tasks.create_task(hub.run())
            told(f"http://{joined_address(host, taken.getsockname()[1])}/")
            await answering(app, taken, ending=ENDING, end=hub.close)
