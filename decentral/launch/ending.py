"""How the process of a node ends, and what its exit code says: what all programs of `nodes/` have in common."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from decentral.errors import DecentralError, UserError
from decentral.launch.observing.logs import write_logs

_LOG = logging.getLogger(__name__)

CANNOT, FAILED, TOLD = 2, 1, 128 + signal.SIGTERM
"""Exit codes: what it was given cannot be used; it broke; it was told to end."""


Work = Coroutine[Any, Any, None]
"""A node's life."""


async def first_of(*ways: Work) -> None:
    """Returns once one of the ways on which a node may end has ended; raises what that failed with."""
    running = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            way.result()
    finally:
        for way in running:
            way.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Told:
    """What a node that drains is told: set by the first signal once it heeds that, which it does when it serves."""

    def __init__(self) -> None:
        self.event, self.heeded = asyncio.Event(), False


def live(work: Work | Callable[[Told], Work]) -> int:
    """Runs a node to its end, with an exit code. SIGTERM and Ctrl-C cancel it, so that it can say goodbye.

    One that takes `Told` is told by that to drain first, if it serves already, and cancelled by a second signal. Who is
    told once more than that ends at once, in the middle of whatever it does.
    """
    write_logs()
    return asyncio.run(_supervise(work))


async def _supervise(work: Work | Callable[[Told], Work]) -> int:
    told, steps = Told(), list[str]()
    task = asyncio.ensure_future(work if isinstance(work, Coroutine) else work(told))

    def step() -> None:
        if not steps and told.heeded:
            steps.append("drain")
            told.event.set()
        elif "cancel" not in steps:
            steps.append("cancel")
            task.cancel()
        else:
            os._exit(TOLD)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, step)
    try:
        await task
    except asyncio.CancelledError:
        return TOLD
    except DecentralError as error:
        _LOG.error("%s", error)
        return CANNOT if isinstance(error, UserError) else FAILED
    return TOLD if told.event.is_set() else 0
