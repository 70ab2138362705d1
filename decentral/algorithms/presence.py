"""Who is there: one peer's side of arriving, being missed, coming back and leaving.

For every partner this room keeps the first round in which the two exchange models. It answers pings, joins and leaves,
notices partners that are gone (a call that fails, pings without an answer), and takes them back when they return. Two
peers that lost one another agree on the round from which both count on the other again: the later of what the one
proposes and the round after the other's present one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from decentral.algorithms.admission import unfit, unlike_ours
from decentral.algorithms.silence import Silence
from decentral.errors import Refusal, Refused, TransportError
from decentral.wire.clock import Clock
from decentral.wire.messages import (
    Join,
    Leave,
    Membership,
    MembershipRecord,
    MembershipStatus,
    PeerId,
    Ping,
    Pong,
    Welcome,
)
from decentral.wire.transport import Envelope, Transport

if TYPE_CHECKING:
    from decentral.algorithms.base import Journal

T = TypeVar("T")

HEAL_EVERY = 5
"""A lost partner is pinged again after this many probe intervals."""
HEAL_PATIENCE = 10
"""Probe intervals that it gets to answer then: many short attempts notice sooner that a network is whole again."""


@dataclass(frozen=True, slots=True)
class Member:
    """One line of the roster: a peer's index in the plan, its name, its id and its address."""

    index: int
    name: str
    id: PeerId
    address: str


class Roster:
    """All members of a run, looked up by index and by id. One roster may serve any number of peers."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.by_index = {member.index: member for member in members}
        self.index_of = {member.id: member.index for member in self.by_index.values()}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for the models of a round, between probes of a silent partner, for one call."""

    round: float
    probe: float
    call: float


async def gather(calls: Mapping[int, Coroutine[None, None, T]]) -> dict[int, T]:
    async with asyncio.TaskGroup() as tasks:
        running = {index: tasks.create_task(call) for index, call in calls.items()}
    return {index: task.result() for index, task in running.items()}


class Signer(Protocol):
    """Makes this peer's own membership records; counters grow, across restarts too."""

    def record(self, status: MembershipStatus, address: str, first_round: int) -> MembershipRecord: ...


class Presence:
    """One peer among its partners, as far as membership goes."""

    def __init__(
        self,
        *,
        index: int,
        roster: Roster | Collection[Member],
        partners: Collection[int],
        transport: Transport,
        clock: Clock,
        journal: Journal,
        signer: Signer,
        deadlines: Deadlines,
        recipe_hash: str,
        schema_hash: str,
        rounds: int,
    ) -> None:
        self.index = index
        known = roster if isinstance(roster, Roster) else Roster(roster)
        self.members = known.by_index
        self.partners = frozenset(partners)
        self.transport = transport
        self.deadlines = deadlines
        self.round = 0
        self._clock = clock
        self._journal = journal
        self._signer = signer
        self._last = rounds  # no word from outside makes us wait for a round that the recipe does not have
        self._recipe_hash = recipe_hash
        self._schema_hash = schema_hash
        self._index_of = known.index_of
        self._from_round: dict[int, float] = dict.fromkeys(self.partners, 1.0)  # infinity: lost or gone
        self._left: set[int] = set()
        self._records: dict[PeerId, MembershipRecord] = {}
        self._seen = dict.fromkeys(self.partners, 0)  # the latest round in which we know each partner to be
        self._changed = asyncio.Event()
        self._silence = Silence(clock, journal, deadlines.round)

    async def join(self, finished: int, running: bool) -> int:
        """Greets every partner; returns the last round to count as finished.

        A new run (and a resumed one) starts at `finished` everywhere. A peer that returns to a `running` session
        proposes the round after the latest that a partner is in.
        """
        first = finished + 1
        if running:
            first = max([first, *(round + 1 for round in (await self.rounds_of(self.partners)).values())])
        self.round = first - 1
        answers = await gather(
            {index: self._greet(index, first, patient=not running) for index in sorted(self.partners)}
        )
        refusals = [answer for answer in answers.values() if isinstance(answer, Refused)]
        if refusals and len(refusals) == len(self.partners):
            raise refusals[0]  # one stranger's refusal proves nothing; everybody's means that we are the stranger
        counted = {index: answer for index, answer in answers.items() if isinstance(answer, int)}
        if running:
            self._from_round |= counted
            first = min(counted.values(), default=first)
            first = max(first, finished + 1)
        for index in self.partners - counted.keys():
            self.lose(index)
        self.round = first - 1
        self._seen = dict.fromkeys(self.partners, self.round)
        return self.round

    async def _greet(self, index: int, first: int, patient: bool) -> int | Refused | None:
        """The first round in which the partner counts on us, its refusal, or None if it cannot be reached.

        A patient greeting waits for a partner that is still starting.
        """
        member = self.members[index]
        record = self._signer.record(MembershipStatus.JOIN, self.members[self.index].address, first)
        message = Join(record=record, recipe_hash=self._recipe_hash, schema_hash=self._schema_hash)
        ends = self._clock.now() + (self.deadlines.round if patient else 0.0)
        while True:
            try:
                welcome = await self.transport.request(member.id, message, self.deadlines.call)
                return min(welcome.round, self._last + 1) if isinstance(welcome, Welcome) else None
            except Refused as refused:
                self._journal.record("refused", round=self.round, other=index, reason=refused.reason.name)
                return refused
            except TransportError:
                if self._clock.now() >= ends:
                    return None
            await self._clock.sleep(0.05)  # it may still be starting

    async def rounds_of(self, indices: Iterable[int]) -> dict[int, int]:
        """The rounds that peers are in; of those who answer."""
        pongs = await gather({index: self._ping(index) for index in indices})
        return {index: pong for index, pong in pongs.items() if pong is not None}

    async def _ping(self, index: int, deadline: float | None = None) -> int | None:
        """The round that a peer is in; None if it does not answer in time: within a call's unless it is said."""
        try:
            patience = self.deadlines.call if deadline is None else deadline
            pong = await self.transport.request(self.members[index].id, Ping(self.round), patience)
        except TransportError as error:
            self._silence.failed(index, error)
            return None
        self._silence.heard(index)
        if isinstance(pong, Pong):
            self._seen[index] = min(pong.round, self._last)
            return self._seen[index]
        return None

    async def _leave(self) -> None:
        leave = Leave(self._signer.record(MembershipStatus.LEAVE, self.members[self.index].address, self.round))
        async with asyncio.TaskGroup() as tasks:
            for index in sorted(self.reachable):
                tasks.create_task(self._tell(index, leave))

    async def _tell(self, index: int, leave: Leave) -> None:
        try:
            async with asyncio.timeout(self.deadlines.probe):
                await self.transport.send(self.members[index].id, leave)
        except (TransportError, TimeoutError):
            return  # it is gone itself

    def present(self, round: int) -> frozenset[int]:
        """Partners with whom models are exchanged in `round`."""
        return frozenset(index for index, first in self._from_round.items() if first <= round)

    def seen(self, index: int) -> int:
        """The latest round in which we know a partner to be."""
        return self._seen[index]

    @property
    def reachable(self) -> frozenset[int]:
        """Partners that are neither lost nor gone, in whatever round models are exchanged with them again."""
        return frozenset(index for index, first in self._from_round.items() if not math.isinf(first))

    def word(self, index: int) -> MembershipRecord | None:
        """What a partner has last said of itself: something else after it was away, however short that was."""
        return self._records.get(self.members[index].id)

    @property
    def left(self) -> frozenset[int]:
        """Partners that have said goodbye."""
        return frozenset(self._left)

    def heard(self, round: int) -> frozenset[int]:
        """Those, and who has said goodbye: its last models may have come before."""
        return self.present(round) | self._left

    @property
    def cut_off(self) -> bool:
        """Whether all partners have fallen silent, and none has said goodbye."""
        return not self._left and not self.reachable and self._silence.covers(self.partners)

    async def regain(self) -> int:
        """The first round in which a partner counts on this peer, which waits for one to come back if it is cut off."""
        if not self.cut_off:
            return self.round
        while self.cut_off and self._silence.patient(self.round):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.deadlines.probe):
                    await self._changed.wait()
        return int(min((first for first in self._from_round.values() if not math.isinf(first)), default=self.round))

    def lose(self, index: int) -> None:
        """Counts on a partner no more, until it is found again."""
        if math.isinf(self._from_round.get(index, math.inf)):
            return
        self._from_round[index] = math.inf
        self._changed.set()
        self._journal.record("lost", round=self.round, other=index)

    def _expect(self, index: int, first: int) -> None:
        if math.isinf(self._from_round[index]):
            self._journal.record("returned", round=self.round, other=index)
        self._left.discard(index)
        self._silence.heard(index)
        self._from_round[index] = first
        self._seen[index] = max(self._seen[index], first - 1)
        self._changed.set()

    async def _answer(self) -> None:
        async for envelope in self.transport.inbox(Ping, Join, Leave, Membership):
            match envelope.message:
                case Ping():
                    envelope.answer(Pong(self.round))
                case Join() as join:
                    self._admit(envelope, join)
                case Leave(record):
                    self._part(envelope, record)
                case Membership():
                    envelope.answer(Membership(tuple(self._records.values())))

    def _admit(self, envelope: Envelope, join: Join) -> None:
        """Counts on the sender, from a round that both keep. Asked again, it answers again."""
        if (problem := self._objection(envelope.sender, join)) is not None:
            return envelope.refuse(problem)
        index, known = self._index_of[envelope.sender], self._records.get(envelope.sender)
        if known != join.record:
            self._records[envelope.sender] = join.record
            self.transport.introduce(envelope.sender, join.record.address)
            if known is not None or math.isinf(self._from_round[index]):
                self._expect(index, max(min(join.record.first_round, self._last + 1), self.round + 1))
        return envelope.answer(self._welcome(index))

    def _objection(self, sender: PeerId, join: Join) -> Refusal | None:
        """Why a peer cannot join us; None if it can."""
        return unlike_ours(join, self._recipe_hash, self._schema_hash) or self._check(sender, join.record)

    def _welcome(self, index: int) -> Welcome:
        first = self._from_round[index]
        return Welcome(self.round + 1 if math.isinf(first) else int(first), tuple(self._records.values()))

    def _part(self, envelope: Envelope, record: MembershipRecord) -> None:
        if (problem := self._check(envelope.sender, record)) is not None:
            return envelope.refuse(problem)
        index = self._index_of[envelope.sender]
        self._records[envelope.sender] = record
        self._left.add(index)
        self._from_round[index] = math.inf
        self._changed.set()
        return envelope.answer(Pong(self.round))

    def _check(self, sender: PeerId, record: MembershipRecord) -> Refusal | None:
        if self._index_of.get(sender) not in self.partners:
            return Refusal.NOT_A_MEMBER
        return unfit(record, sender, self._records.get(sender))

    async def _heal(self) -> None:
        """Looks for lost partners from time to time: what was taken for a crash may have been the network."""
        while True:
            await self._clock.sleep(self.deadlines.probe * HEAL_EVERY)
            lost = {index for index, first in self._from_round.items() if math.isinf(first)} - self._left
            await gather({index: self._seek(index) for index in sorted(lost)})

    async def _seek(self, index: int) -> None:
        """Takes a lost partner back if it answers."""
        patience = min(self.deadlines.call, HEAL_PATIENCE * self.deadlines.probe)
        if (round := await self._ping(index, patience)) is None:
            return
        first = max(round, self.round) + 2
        agreed = await self._greet(index, first, patient=False)
        if isinstance(agreed, int) and math.isinf(self._from_round[index]):
            self._expect(index, max(agreed, self.round + 1))
