"""Between a source and those who look: polls the one, folds what it says, and wakes the others."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from decentral.dashboard.board import Board
from decentral.dashboard.source import Source
from decentral.errors import DecentralError

PERIOD = 0.1
"""Seconds between looks at the journals, and between what one reader is sent."""
FACTS = 1.0
"""Seconds between looks at what no journal tells."""
SHARE = 4
"""A look that takes long is followed by a pause so many times as long."""
AT_ONCE = 2000
"""Events that are folded before others have their turn."""
PROBLEM = "problem"


class Hub:
    """One board, and whoever waits for it to change. `run` goes on until it is cancelled."""

    def __init__(self, source: Source) -> None:
        """Raises DecentralError where the source cannot be read. Blocking."""
        self._source = source
        about = source.about()
        self.board = Board(about.peers, about.aside, draws=about.draws, names=about.names)
        self.board.know("head", dict(about.head))
        self.board.know("names", list(about.names))
        self.board.know("edges", [list(edge) for edge in about.edges])
        self.epoch = secrets.token_hex(4)
        """Of this board: revisions count within it."""
        self.closed = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._look())

    async def changed(self, revision: int) -> None:
        """Returns once the board is beyond a revision, or closed."""
        while self.board.revision <= revision and not self.closed:
            await self._changed.wait()

    def close(self) -> None:
        """Readers are sent no more, and leave."""
        self.closed = True
        self._wake()

    def picture(self, name: str) -> bytes | None:
        return self._source.picture(name)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _follow(self) -> None:
        while True:
            began = time.monotonic()
            fresh = await self._asked(self._source.poll, ())
            took = time.monotonic() - began
            for events in _in_pieces(fresh):
                self.board.take_all(events)
                self._wake()
                await asyncio.sleep(0)
            if len(fresh) < AT_ONCE:  # else there is more of a history
                await asyncio.sleep(max(PERIOD, SHARE * took))

    async def _look(self) -> None:
        while True:
            began = time.monotonic()
            facts: Mapping[str, Any] = await self._asked(self._source.facts, {})
            before = self.board.revision
            for name, value in facts.items():
                self.board.know(name, value)
            if self.board.revision > before:
                self._wake()
            await asyncio.sleep(max(FACTS, SHARE * (time.monotonic() - began)))

    async def _asked(self, ask: Any, nothing: Any) -> Any:
        """What cannot be read is shown, and tried again."""
        try:
            found = await asyncio.to_thread(ask)
        except (DecentralError, OSError) as error:
            self.board.know(f"{PROBLEM}/{ask.__name__}", str(error))
            self._wake()
            return nothing
        if f"{PROBLEM}/{ask.__name__}" in self.board:
            self.board.know(f"{PROBLEM}/{ask.__name__}", "")
        return found


def _in_pieces(events: Sequence[Any]) -> list[Sequence[Any]]:
    return [events[start : start + AT_ONCE] for start in range(0, len(events), AT_ONCE)]
