"""A node that serves takes nothing new, answers what it has begun, and ends: told by a signal, or by a mark.

The mark lies in the node's folder. A launcher starts no node that is marked, and starts it again when the mark is gone:
so a node can be taken out of a cluster that stands, and brought back.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Protocol

from decentral.files import write_atomic
from decentral.launch.ending import Told
from decentral.run.journal import Journal

MARK = "drain"
"""The file in a node's folder."""
LOOK = 1.0
"""Seconds between looks at it: each wakes a node up from its work."""
PATIENCE = 20.0
"""Seconds for what has begun; container engines give 30 as a rule, and the launcher of a cluster that ends fewer."""


class Draining(Protocol):
    """What serves: the node's transport."""

    async def drain(self, patience: float, *, sessions: bool = False) -> bool: ...


def mark(folder: Path) -> None:
    """The node is to drain, and not to be started again."""
    write_atomic(folder / MARK, b"")


def unmark(folder: Path) -> None:
    """The node may be started again."""
    (folder / MARK).unlink(missing_ok=True)


def is_marked(folder: Path) -> bool:
    """Whether it is to drain, or has."""
    return (folder / MARK).exists()


async def drained(transport: Draining, folder: Path, journal: Journal, told: Told, *, sessions: bool = False) -> None:
    """Returns once the node has been told to drain, and has: `told` by a signal, which it is from then on at any rate.

    `sessions`: whoever is marked waits for clients' sessions to end, where a task alone is of no use to them; a signal
    has no time for that.
    """
    told.heeded = True
    while not told.event.is_set() and not is_marked(folder):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                await told.event.wait()
    sessions = sessions and not told.event.is_set()
    journal.record("draining")
    told.event.set()
    whole = await transport.drain(PATIENCE, sessions=sessions)
    journal.record("drained", whole=whole)
