"""Sessions with the replicas of a cluster: opened when they are needed, held open, opened anew when they broke.

With them goes what a client expects of every replica, and who learns how each of them does. A question that wants its
replicas attested is asked in sessions of its own, which are sealed to the machines that were shown (`attesting`).
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

from decentral.attestation.session.challenging import Seen
from decentral.serving.asking.attesting import Attesting
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
    seen: Seen | None = None
    ends: float = math.inf
    """When its machine has to be shown again, by the event loop's clock."""


class Replicas:
    """One client's sessions, by peer. `close` ends them.

    `busy`: how often a replica had too much to do, and was asked again.
    """

    def __init__(
        self,
        links: Links,
        watch: Watch,
        patience: Patience,
        limits: Limits | None = None,
        attesting: Attesting | None = None,
    ) -> None:
        self.watch, self.patience = watch, patience
        self.busy = 0
        self._links, self._limits, self._attesting = links, limits or Limits(), attesting
        self._held: dict[tuple[PeerId, bool], _Held] = {}
        self._retired: list[_Held] = []
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._sent = self._received = 0

    def turn(self, part: str) -> asyncio.Semaphore:
        """Held by whoever asks about a part: others wait in the order in which they came, and time begins after it.

        Of the part, and not of each replica: who holds one of them and waits for another would keep it from others.
        """
        return self._turns.setdefault(part, asyncio.Semaphore(MOST_AT_ONCE))

    async def session(self, peer: PeerId, attested: bool = False) -> Session:
        """The session with a replica; `attested`: with one whose machine counts, or none.

        Raises Unreachable, also as Distrusted, and Refused.
        """
        held = self._held.setdefault((peer, attested), _Held())
        async with held.opening:
            if held.session is not None and held.session.broken:
                await self._forget(held)
            elif asyncio.get_running_loop().time() >= held.ends:
                await self._retire(held)
            if held.session is None:
                await self._open(held, peer, attested)
            assert held.session is not None
            return held.session

    async def _open(self, held: _Held, peer: PeerId, attested: bool) -> None:
        if attested:
            self._links.redial(peer)  # its evidence is for the certificate that it shows now
        opened = open_session(self._links, peer, limits=self._limits, deadline=self.patience.opening)
        held.session = await held.stack.enter_async_context(opened)
        if not attested:
            return
        if self._attesting is None:
            raise ValueError("nobody here knows which machines count")
        try:
            held.seen = await self._attesting.meet(held.session, self.patience.opening)
        except BaseException:
            await self._forget(held)
            raise
        held.ends = asyncio.get_running_loop().time() + self._attesting.lasting

    async def _retire(self, held: _Held) -> None:
        """What is under way in a session whose time is over ends in it; those in which nothing is are closed."""
        self._retired.append(_Held(session=held.session, stack=held.stack))
        held.session, held.stack, held.ends = None, AsyncExitStack(), math.inf
        over = [each for each in self._retired if each.session is None or each.session.idle]
        self._retired = [each for each in self._retired if each not in over]
        for each in over:
            await self._forget(each)

    def seen(self, peer: PeerId) -> Seen | None:
        """What a replica has shown of its machine last."""
        held = self._held.get((peer, True))
        return None if held is None else held.seen

    async def _forget(self, held: _Held) -> None:
        if held.session is not None:
            self._sent, self._received = self._sent + held.session.sent, self._received + held.session.received
        held.session, held.ends = None, math.inf
        await held.stack.aclose()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received, of frames."""
        live = [held.session for held in (*self._held.values(), *self._retired) if held.session is not None]
        sent, received = sum(session.sent for session in live), sum(session.received for session in live)
        return self._sent + sent, self._received + received

    async def close(self) -> None:
        for held in (*self._held.values(), *self._retired):
            async with held.opening:
                await self._forget(held)
