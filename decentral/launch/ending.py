"""How the process of a node ends, and what its exit code says: what all programs of `nodes/` have in common."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any

from decentral.errors import DecentralError, UserError
from decentral.launch.observing.logs import write_logs

_LOG = logging.getLogger(__name__)

CANNOT, FAILED, TOLD = 2, 1, 128 + signal.SIGTERM
"""Exit codes: what it was given cannot be used; it broke; it was told to end."""


def live(work: Coroutine[Any, Any, None]) -> int:
    """Runs a node to its end, with an exit code. SIGTERM and Ctrl-C cancel it, so that it can say goodbye."""
    write_logs()
    return asyncio.run(_supervise(work))


async def _supervise(work: Coroutine[Any, Any, None]) -> int:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return TOLD
    except DecentralError as error:
        _LOG.error("%s", error)
        return CANNOT if isinstance(error, UserError) else FAILED
    return 0
