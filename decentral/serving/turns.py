"""Turns at what does one thing at a time: whoever asks for much waits behind those who ask for little."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from decentral.wire.messages import PeerId


class Turns:
    """One turn at a time. Clients that wait are served in rotation, and what each has asked for in its order."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: dict[PeerId, deque[asyncio.Future[None]]] = {}
        """The client whose turn is next comes first."""

    @asynccontextmanager
    async def of(self, client: PeerId) -> AsyncIterator[None]:
        """A turn of this client, for as long as the body runs."""
        if self._taken:
            await self._wait(client)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: PeerId) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given its turn, and will not take it
                self._pass_on()
            else:
                self._leave(client, mine)
            raise

    def _leave(self, client: PeerId, mine: asyncio.Future[None]) -> None:
        """At once: what goes before it may take minutes, and a client can call off any number of tasks meanwhile."""
        those = self._waiting.get(client)
        if those is not None and mine in those:
            those.remove(mine)
            if not those:
                del self._waiting[client]

    def _pass_on(self) -> None:
        """To the next client that still waits; the turn stays taken until it has it."""
        while self._waiting:
            client = next(iter(self._waiting))
            those = self._waiting.pop(client)
            mine = those.popleft()
            if those:
                self._waiting[client] = those  # behind all others
            if not mine.done():
                mine.set_result(None)
                return
        self._taken = False
