"""Who is there, where anybody may be drawn: one peer's view of all the others, and the samples that it finds.

The peers of the plan are members from the start; who leaves or comes back says so in a signed record. What a peer knows
rides on the models that it sends: for each receiver that had the news of round r, what is newer than r (see
`core.membership`). Nobody needs to hear from everybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from decentral.algorithms.admission import unfit, unlike_ours
from decentral.algorithms.presence import Deadlines, Member, Roster, Signer, gather
from decentral.algorithms.silence import Silence
from decentral.core.membership import View, Word, view_of
from decentral.core.sampling import drawn
from decentral.errors import Refusal, Refused, TransportError
from decentral.wire.clock import Clock
from decentral.wire.messages import (
    Join,
    Leave,
    Membership,
    MembershipRecord,
    MembershipStatus,
    News,
    PeerId,
    Ping,
    Pong,
    Welcome,
)
from decentral.wire.transport import Envelope, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from decentral.algorithms.base import Journal

DIGITS = 16
"""Of the recipe's hash, which travel with news."""

RETURN = 3
"""Patiences that a peer which comes back waits for somebody to answer."""

SLACK = 2
"""Rounds that news may be late: what somebody heard of in a round may have missed that round's messages."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who takes part in a round: s, a, sf and the window dk of the paper; waiting times in seconds, dt among them."""

    size: int
    aggregators: int
    success: float
    floor: int
    window: int
    ping: float
    patience: float
    look: float
    seed: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The peers that answered, in the order in which they are drawn, and the oldest news that one of them has had."""

    peers: tuple[int, ...]
    synced: int
    cut_off: bool = False  # all others who might have been in it have kept silent


class Crowd:
    """One peer among all others. Use `async with crowd.open()`; everything it starts ends there."""

    def __init__(
        self,
        *,
        index: int,
        roster: Roster | Collection[Member],
        transport: Transport,
        clock: Clock,
        journal: Journal,
        signer: Signer,
        deadlines: Deadlines,
        recipe_hash: str,
        schema_hash: str,
        rounds: int,
        sampling: Sampling,
        revoked: Callable[[], Collection[PeerId]] = frozenset,
    ) -> None:
        """`revoked`: whose records are not taken, and who is drawn no more, whatever others say of them."""
        self.index = index
        self.transport = transport
        self.round = 0
        """The aggregate that this peer holds: what a pong says."""
        self._roster = roster if isinstance(roster, Roster) else Roster(roster)
        self.view = planned(len(self._roster.by_index)).copy()
        self._clock, self._journal, self._signer = clock, journal, signer
        self._deadlines, self.sampling = deadlines, sampling
        self._recipe_hash, self._schema_hash = recipe_hash, schema_hash
        self._last = rounds
        self.leaving = False
        """Whether this peer is about to go, and draws no more samples with itself in them."""
        self.alone = False
        """Whether this peer came back and found nobody."""
        self._revoked = revoked
        self._synced = 0
        self._records: dict[int, MembershipRecord] = {}
        self._introduced: set[int] = set()
        self._silence = Silence(clock, journal, deadlines.round)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Crowd]:
        """Answers the other peers for as long as the body runs; says goodbye if it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            service = tasks.create_task(self._answer())
            try:
                yield self
            except asyncio.CancelledError:
                await self._leave()
                raise
            finally:
                service.cancel()

    # ---- asking ---------------------------------------------------------------------------------------------------

    def index_of(self, peer: PeerId) -> int | None:
        """The number of an authenticated sender in the plan."""
        return self._roster.index_of.get(peer)

    def id_of(self, index: int) -> PeerId:
        """Of a peer whom we are about to call."""
        member = self._roster.by_index[index]
        if index not in self._introduced:
            self._introduced.add(index)
            known = self._records.get(index)
            self.transport.introduce(member.id, member.address if known is None else known.address)
        return member.id

    def order(self, round: int, first: int | None = None) -> list[int]:
        """The candidates of a round in the order in which they are drawn."""
        candidates = self.view.candidates(round, self.sampling.window, self.index)
        if self.leaving:
            candidates = candidates[candidates != self.index]
        if gone := self._gone():
            candidates = candidates[~np.isin(candidates, gone)]
        return drawn(candidates, self.sampling.seed, round, len(self.view), first)

    def members(self) -> list[int]:
        """Who has not left, whether seen of late or not."""
        gone = self._gone()
        return [int(peer) for peer in np.flatnonzero(self.view.members()) if peer not in gone]

    def _gone(self) -> list[int]:
        """Who has been revoked, of the peers of the plan."""
        known = self._roster.index_of
        return [known[peer] for peer in self._revoked() if peer in known]

    async def draw(self, round: int) -> Sample:
        """The first so many candidates that answer; who does not within `ping` seconds is replaced by the next.

        A peer that is cut off asks again, for a while, before it takes itself for the only one that is left.
        """
        while (sample := await self._find(round)).cut_off and self._silence.patient(self.round):
            await self._clock.sleep(self.sampling.ping)
        return sample

    async def _find(self, round: int) -> Sample:
        size = self.sampling.size
        order = self.order(round, 4 * size)
        whole = len(order) < 4 * size
        alive: dict[int, int] = {}
        asked = 0
        while len(alive) < size:
            missing = size - len(alive)
            batch = math.ceil(missing * max(1.0, asked / max(len(alive), 1))) if asked else missing
            if asked + batch > len(order) and not whole:
                order, whole = self.order(round), True
            some = order[asked : asked + batch]
            if not some:
                break
            asked += len(some)
            alive |= await self.ping(some, round)
        found = [peer for peer in order[:asked] if peer in alive][:size]
        others = {peer for peer in order[:asked] if peer != self.index}
        cut_off = alive.keys() <= {self.index} and self._silence.covers(others)
        return Sample(tuple(found), min((alive[peer] for peer in found), default=0), cut_off)

    async def ping(self, peers: Iterable[int], round: int) -> dict[int, int]:
        """The round whose news each has had, of those who answer; they count as active in `round`."""
        answers = await self.ask(peers, round)
        here = [peer for peer, pong in answers.items() if pong is not None]
        if here:
            self.view.see(np.array(here), np.full(len(here), round), round)
        return {peer: pong.synced for peer, pong in answers.items() if pong is not None}

    async def ask(self, peers: Iterable[int], round: int) -> dict[int, Pong | None]:
        """Each peer's answer to a ping; None: it did not answer in time."""
        own = Pong(self.round, self._synced)
        others = [peer for peer in peers if peer != self.index]
        answers = await gather({peer: self._ask(peer, round) for peer in others})
        return {peer: own if peer == self.index else answers[peer] for peer in peers}

    async def _ask(self, peer: int, round: int) -> Pong | None:
        try:
            answer = await self.transport.request(self.id_of(peer), Ping(round), self.sampling.ping)
        except TransportError as error:
            self._silence.failed(peer, error)
            return None
        self._silence.heard(peer)
        return answer if isinstance(answer, Pong) else None

    async def look(self) -> tuple[int, int | None]:
        """The newest aggregate that a few others hold, and who; first those who are drawn next, then anybody.

        Who hears of it refreshes what is known of this peer: it counts as active in the round that it says.
        """
        size = self.sampling.size
        near = [peer for peer in self.order(self.round + 2, size + 1) if peer != self.index][:size]
        answers = await self.ask(near, self.round)
        newest = max(((pong.round, peer) for peer, pong in answers.items() if pong is not None), default=(0, None))
        if newest[0] > self.round:
            newest_round = min(newest[0], self._last)
            await self.ask(self.order(newest_round + 2, size), newest_round)  # whom the next round's models reach
        elif newest[1] is None:
            answers = await self.ask([peer for peer in self.order(0) if peer != self.index], self.round)
            newest = max(((pong.round, peer) for peer, pong in answers.items() if pong is not None), default=(0, None))
        return newest

    # ---- telling --------------------------------------------------------------------------------------------------

    def news(self, since: int, round: int) -> News:
        """What is new to one who has had the news of round `since`, to travel in a message of `round`."""
        words, peers, rounds = self.view.news(max(since - SLACK, 0), round)
        records = tuple(self._records[int(peer)] for peer in words if int(peer) in self._records)
        return News(records, peers, rounds, self._recipe_hash[:DIGITS])

    def greeting(self) -> News:
        """News of nobody: it says whose recipe we follow."""
        return News(recipe_hash=self._recipe_hash[:DIGITS])

    def take(self, news: News | None, round: int) -> bool:
        """News that came with a message of `round`; False if its sender follows another recipe.

        Records are verified already; who is no member is passed over.
        """
        if news is None or news.recipe_hash != self._recipe_hash[:DIGITS]:
            return False
        for record in news.records:
            self.admit(record, round)
        if len(news.peers) and news.peers[-1] < len(self.view):
            self.view.see(news.peers, news.rounds, min(round, self._last))
        self._synced = max(self._synced, min(round, self._last))
        return True

    def admit(self, record: MembershipRecord, round: int | None = None) -> bool:
        """Takes a record over if it is newer than what is known; returns whether it was."""
        index = self.index_of(record.peer)
        if index is None or record.peer in self._revoked():
            return False
        left = record.status is MembershipStatus.LEAVE
        word = Word(index, record.counter, left, _mark(record))
        fresh = self.view.learn(word) if round is None else self.view.learn(word, round)
        if fresh:
            self._records[index] = record
            self._introduced.discard(index)
        return fresh

    def meet(self, index: int, round: int) -> None:
        """A peer was seen at work in a round; what it says of itself counts whatever we know of the present round."""
        self.view.see(np.array([index]), np.array([round]), min(round, self._last))

    # ---- arriving and leaving -------------------------------------------------------------------------------------

    async def join(self, finished: int, running: bool) -> int:
        """Returns the last round to count as finished. A peer that comes back tells a few others, who tell the rest.

        It waits for somebody to answer, as others may be coming back too; if nobody does, it is `alone`.
        """
        self.round = self._synced = finished
        if not running:
            return finished
        record = self._signer.record(MembershipStatus.JOIN, self._roster.by_index[self.index].address, finished + 1)
        self.admit(record)
        ends = self._clock.now() + RETURN * self.sampling.patience
        while len(self.view) > 1 and not await self._greet_some(Join(record, self._recipe_hash, self._schema_hash)):
            if self._clock.now() >= ends:
                self.alone = True
                self._journal.record("alone", round=finished)
                break
            await self._clock.sleep(self.sampling.ping)
        return finished

    async def _greet_some(self, message: Join) -> bool:
        """Whether anybody has welcomed us. Raises Refused if all who answered refuse."""
        others = [peer for peer in self.order(self.round + 1) if peer != self.index]
        refusals: list[Refused] = []
        welcomed = 0
        while others and welcomed < self.sampling.size:
            some, others = others[: self.sampling.size - welcomed], others[self.sampling.size - welcomed :]
            for answer in (await gather({peer: self._greet(peer, message) for peer in some})).values():
                if isinstance(answer, Welcome):
                    welcomed += 1
                    for known in answer.records:
                        self.admit(known)
                    self.take(answer.news, answer.round)
                elif isinstance(answer, Refused):
                    refusals.append(answer)
        if refusals and not welcomed:
            raise refusals[0]
        return welcomed > 0

    async def _greet(self, peer: int, message: Join) -> Welcome | Refused | None:
        try:
            answer = await self.transport.request(self.id_of(peer), message, self.sampling.ping)
        except Refused as refused:
            self._journal.record("refused", round=self.round, other=peer, reason=refused.reason.name)
            return refused
        except TransportError:
            return None
        return answer if isinstance(answer, Welcome) else None

    async def _leave(self) -> None:
        address = self._roster.by_index[self.index].address
        leave = Leave(self._signer.record(MembershipStatus.LEAVE, address, self.round))
        near = [peer for peer in self.order(self.round + 2, 2 * self.sampling.size) if peer != self.index]
        async with asyncio.TaskGroup() as tasks:
            for peer in near[: self.sampling.size]:
                tasks.create_task(self._tell(peer, leave))

    async def _tell(self, peer: int, leave: Leave) -> None:
        try:
            async with asyncio.timeout(self._deadlines.probe):
                await self.transport.send(self.id_of(peer), leave)
        except (TransportError, TimeoutError):
            return  # it is gone itself

    # ---- being asked ----------------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        async for envelope in self.transport.inbox(Ping, Join, Leave, Membership):
            index = self.index_of(envelope.sender)
            if index is None:
                envelope.refuse(Refusal.NOT_A_MEMBER)
                continue
            match envelope.message:
                case Ping(round):
                    self.meet(index, round)
                    envelope.answer(Pong(self.round, self._synced))
                case Join() as join:
                    self._welcome(envelope, join)
                case Leave(record):
                    self._part(envelope, record)
                case Membership():
                    envelope.answer(Membership(tuple(self._records.values())))

    def _welcome(self, envelope: Envelope, join: Join) -> None:
        if (problem := self._objection(envelope.sender, join)) is not None:
            return envelope.refuse(problem)
        self.admit(join.record)
        index = self._roster.index_of[envelope.sender]
        self.meet(index, self.round)
        news = self.news(0, max(self.round, int(self.view.active.max())))
        return envelope.answer(Welcome(max(self.round, int(self.view.active.max())), news=news))

    def _objection(self, sender: PeerId, join: Join) -> Refusal | None:
        """Why a peer cannot join us; None if it can."""
        return unlike_ours(join, self._recipe_hash, self._schema_hash) or self._check(sender, join.record)

    def _part(self, envelope: Envelope, record: MembershipRecord) -> None:
        if (problem := self._check(envelope.sender, record)) is not None:
            return envelope.refuse(problem)
        self.admit(record)
        return envelope.answer(Pong(self.round, self._synced))

    def _check(self, sender: PeerId, record: MembershipRecord) -> Refusal | None:
        return unfit(record, sender, self._records.get(self._roster.index_of[sender]))


@lru_cache(maxsize=4)
def planned(peers: int) -> View:
    """The first view of everybody: the peers of the plan are members, and their own words outrank the plan's.

    Simulated peers share it, so it is only to be copied.
    """
    return view_of(peers, (Word(peer, 1, False, -1) for peer in range(peers)))


def _mark(record: MembershipRecord) -> int:
    """63 bits of the signature's digest."""
    return int.from_bytes(hashlib.sha256(record.signature).digest()[:8], "big") >> 1
