"""How much a node has to do, as its journal tells: what its server counts, written down when it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from decentral.run.journal import Journal
from decentral.wire.tally import Tally

PERIOD = 2.0
"""Seconds between looks: a node that is busy writes a line each time, one that nobody asks writes none."""


@asynccontextmanager
async def noting_load(tally: Tally, journal: Journal, period: float = PERIOD) -> AsyncIterator[None]:
    """Writes `load` for as long as the body runs, and how it stood at the end."""
    written = Tally().as_event()

    def note() -> None:
        nonlocal written
        if (now := tally.as_event()) != written:
            written = now
            journal.record("load", **now)

    async def watch() -> None:
        while True:
            await asyncio.sleep(period)
            note()

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            note()
