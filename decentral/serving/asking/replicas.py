"""Sessions with the replicas of a cluster: opened when they are needed, held open, opened anew when they broke.

With them goes what a client expects of every replica, and who learns how each of them does.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

from decentral.wire.limits import Limits
from decentral.wire.links import Links
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Session, open_session

MOST_AT_ONCE = 32
"""Questions about one part: half of what a replica takes in one session, so that it never has to refuse one of ours."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a replica has."""

    opening: float = 10.0
    """For a session."""
    commit: float = 20.0
    """For its computation; then the next in the line is asked, or sooner where it is late beside others."""
    reveal: float = 5.0
    """For what it has computed already."""
    prove: float = 600.0
    """For the proof of each sample."""


class Watch(Protocol):
    """Learns how replicas do."""

    def usual(self, peer: PeerId) -> float | None:
        """Seconds that it takes as a rule; None: nobody knows."""

    def began(self, peer: PeerId) -> None: ...

    def ended(self, peer: PeerId, seconds: float | None) -> None:
        """After so many seconds; None: it failed."""

    def withdrawn(self, peer: PeerId) -> None:
        """Nobody waited for what would come of it, or nothing could."""


@dataclass(slots=True)
class _Held:
    """A replica's session; one opens it at a time."""

    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    session: Session | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


class Replicas:
    """One client's sessions, by peer. `close` ends them.

    `busy`: how often a replica had too much to do, and was asked again.
    """

    def __init__(self, links: Links, watch: Watch, patience: Patience, limits: Limits | None = None) -> None:
        self.watch, self.patience = watch, patience
        self.busy = 0
        self._links, self._limits = links, limits or Limits()
        self._held: dict[PeerId, _Held] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._sent = self._received = 0

    def turn(self, part: str) -> asyncio.Semaphore:
        """Held by whoever asks about a part: others wait in the order in which they came, and time begins after it.

        Of the part, and not of each replica: who holds one of them and waits for another would keep it from others.
        """
        return self._turns.setdefault(part, asyncio.Semaphore(MOST_AT_ONCE))

    async def session(self, peer: PeerId) -> Session:
        """The session with a replica. Raises Unreachable, Refused."""
        held = self._held.setdefault(peer, _Held())
        async with held.opening:
            if held.session is not None and held.session.broken:
                await self._forget(held)
            if held.session is None:
                opened = open_session(self._links, peer, limits=self._limits, deadline=self.patience.opening)
                held.session = await held.stack.enter_async_context(opened)
            return held.session

    async def _forget(self, held: _Held) -> None:
        if held.session is not None:
            self._sent, self._received = self._sent + held.session.sent, self._received + held.session.received
        held.session = None
        await held.stack.aclose()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received, of frames."""
        live = [held.session for held in self._held.values() if held.session is not None]
        sent, received = sum(session.sent for session in live), sum(session.received for session in live)
        return self._sent + sent, self._received + received

    async def close(self) -> None:
        for held in self._held.values():
            async with held.opening:
                await self._forget(held)
