"""Federated averaging with a few clients, drawn anew in each round (arXiv 1602.05629, algorithm 1, C < 1).

Everybody draws the clients of a round alike, from the seed, the round and who is there. The aggregator sends them the
average of the round before; they train, and send it what they have learned. Who is not drawn does nothing, and learns
how far the others are when it asks, as of all who are silent, whether the aggregator is still alive.

The average is where the aggregator is, so that more can be lost with it than a part of a round. Its successor averages
the newest round of which clients are left: they keep their models until they are drawn again, and send them once more.
An aggregator that is relieved by one that has come back, and has a lower index, hands it the average.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from decentral.algorithms.aggregator import AVERAGE, LOCAL, PATIENCE, Aggregator
from decentral.algorithms.base import Peer, evaluate, finish, local_model, replace_model, train
from decentral.algorithms.packing import LEFT, for_aggregator, for_all, remember, remembered, sound
from decentral.core.compression import compensated
from decentral.core.sampling import drawn
from decentral.training.learner import State
from decentral.wire.messages import Model


@dataclass(slots=True)
class Learned:
    """A client's model of the round in which it took part last."""

    model: Model
    shared: State | None
    """The average that it was trained on, if that is of use to an aggregator that has it too."""
    by: int | None
    """Who sent that average."""
    left: State
    """What the client's messages had left out before."""
    told: int | None = None
    """The aggregator that was sent the model."""


class SampledRounds:
    """One peer's rounds. It leads those in which it is the aggregator, and follows the aggregator in the others."""

    def __init__(self, peer: Peer, clients: int) -> None:
        """`clients`: how many are drawn in each round."""
        self._peer, self._session, self._clients = peer, peer.session, clients
        self._aggregator = Aggregator(peer)
        holds = peer.finished in (0, self._aggregator.held)
        self._average: int | None = peer.finished if holds else None
        """The round whose average the learner has; None: it has trained since. All have the first model, of round 0."""
        self._learned: Learned | None = None
        self._known = peer.finished
        """A round that somebody has begun."""
        self._former: int | None = None
        """The aggregator that was followed last, as long as it has no successor."""
        self._given: int | None = None
        """The aggregator that this one handed its average to."""
        self._leading = False

    async def run(self) -> None:
        """To the last round, whose average everybody gets."""
        peer = self._peer
        while peer.finished < peer.schedule.rounds:
            if self._leader(self._now) == peer.index:
                await self._lead()
            else:
                self._leading = False
                await self._follow()

    @property
    def _now(self) -> int:
        """The round that is under way, as far as this peer knows."""
        return max(self._peer.finished + 1, self._known)

    def _leader(self, round: int) -> int:
        """Who aggregates in a round."""
        return min({self._peer.index, *self._session.present(min(round, self._peer.schedule.rounds))})

    def _sample(self, round: int, there: Collection[int] | None = None) -> frozenset[int]:
        """The clients of a round, drawn from those who are there: if nobody is said, this peer and its partners."""
        if there is None:
            there = {self._peer.index, *self._session.present(round)}
        layout, candidates = self._peer.layout, np.array(sorted(there), dtype=np.int64)
        return frozenset(drawn(candidates, layout.seed, round, layout.peers, self._clients))

    # ---- the aggregator -------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """One round, or what it takes to know where the others are."""
        peer, session = self._peer, self._session
        round = peer.finished + 1
        if not self._leading:
            self._leading = True
            rounds = await session.poll(session.present(self._now))
            if self._average != peer.finished or max(rounds.values(), default=0) > round:
                return await self._take_over()
        session.enter(round)
        sample = self._sample(round)
        await self._aggregator.recall(round)
        if round > 1:
            await self._send_average(round - 1, sample - {peer.index})
        own = await self._train(round) if peer.index in sample else None
        peer.phase(round, "exchange")
        began = peer.clock.now()
        came = await session.collect(sample - {peer.index})
        return await self._end(round, own, came, sample, began)

    async def _send_average(self, round: int, to: frozenset[int]) -> None:
        """The learner has it."""
        peer = self._peer
        average = await for_all(peer, await local_model(peer, round, AVERAGE))
        await self._session.push(to, average)

    async def _train(self, round: int) -> Model:
        """The aggregator's own model, of which nothing is left out."""
        peer = self._peer
        await train(peer, round)
        self._average = None
        own, left = await local_model(peer, round), remembered(peer, LEFT)
        remember(peer, LEFT, {})
        return replace(own, tensors=compensated(own.tensors, left))

    async def _end(
        self, round: int, own: Model | None, came: Mapping[int, Model], sample: frozenset[int], began: float
    ) -> None:
        """What came becomes the average of a round; if nothing did, the model that there is stays."""
        peer = self._peer
        await self._skip(round - 1)
        base = self._aggregator.last
        if base is None:
            base = await peer.clock.work(peer.learner.view, 0.0)
        read = await sound(peer, came, base)
        peer.journal.record(
            "exchanged",
            round=round,
            received=sorted(read),
            missing=sorted(sample - {peer.index, *read}),
            seconds=peer.clock.now() - began,
        )
        models = dict(sorted({**({} if own is None else {peer.index: own}), **read}.items()))
        if models:
            trusted = base if own is None else own.tensors
            _, average = await self._aggregator.make(round, models, trusted)
            await self._take(round, average.tensors)
        else:
            self._holds(round)
        last = round == peer.schedule.rounds
        if last:
            await self._send_average(round, self._session.reachable)
        if last or (models and peer.schedule.evaluates(round)):
            await evaluate(peer, round)
        if round > peer.finished:
            await finish(peer, round)

    async def _take_over(self) -> None:
        """Becomes the aggregator in the place of another one: of the newest round that clients have begun.

        If that other one is alive, it hands over its average instead. If neither comes, the model that this peer has
        must do.
        """
        peer, session = self._peer, self._session
        peer.phase(self._now, "exchange")
        began = peer.clock.now()
        ends, newest = 0.0, -1
        while True:
            if await self._was_handed():
                return None
            rounds = await session.poll(session.present(self._now))
            learned = self._learned
            front = max([peer.finished, *rounds.values(), *([] if learned is None else [learned.model.round])])
            self._known = max(self._known, front)
            if self._leader(self._now) != peer.index:
                return None
            if front > newest:
                newest, ends = front, peer.clock.now() + PATIENCE * session.deadlines.round
            own = None if learned is None or learned.model.round < front else learned.model
            there = {*session.present(self._now), *([] if own is None else [peer.index])}
            there |= set() if self._former is None else {self._former}
            awaited = {index for index, round in rounds.items() if round == front} & self._sample(front, there)
            came = {index: model for index, model in session.latest(LOCAL).items() if model.round == front}
            if ((came or own) and awaited <= came.keys()) or peer.clock.now() >= ends:
                break
            await session.stirred()
        self._former = None
        came = {index: came[index] for index in self._sample(front, came)}  # no more than are clients in any round
        if own is not None and learned is not None:
            own = replace(own, tensors=compensated(own.tensors, learned.left))
            remember(peer, LEFT, {})
        if self._aggregator.held != front - 1:
            self._aggregator.last = None
        session.enter(front)
        return await self._end(front, own, came, frozenset(awaited), began)

    async def _was_handed(self) -> bool:
        """Whether the aggregator before this one has sent its average."""
        for sender, model in self._session.latest(AVERAGE).items():
            if model.round >= self._peer.finished and sender in self._session.present(model.round + 1):
                return await self._read(sender, model)
        return False

    async def _read(self, sender: int, model: Model) -> bool:
        """Takes an average over, if it can be read; all rounds up to its own are finished then. The last is the end."""
        peer = self._peer
        self._session.drop(sender, model)
        view = await peer.clock.work(peer.learner.view, 0.0)
        if not (read := await sound(peer, {sender: model}, view)):
            return False
        last = model.round == peer.schedule.rounds
        await self._skip(model.round - last)
        await self._take(model.round, read[sender].tensors)
        if last:
            await evaluate(peer, model.round)
            await finish(peer, model.round)
        return True

    # ---- the others -----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Until this peer is drawn, the run is over, or somebody else aggregates."""
        peer, session = self._peer, self._session
        if peer.finished == 0 and self._average == 0 and peer.index in self._sample(1):
            await self._aggregator.recall(1)
            return await self._take_part(1, None)
        leader = self._former = self._leader(self._now)
        if 0 < peer.finished == self._average and self._given != leader:
            self._given = leader
            await self._send_average(peer.finished, frozenset({leader}))
        peer.phase(self._now, "wait")
        stands, ends = session.seen(leader), peer.clock.now() + PATIENCE * session.deadlines.round
        while self._leader(self._now) == leader:
            if await self._was_sent():
                return None
            await self._tell(leader)
            if session.seen(leader) > stands:
                stands, ends = session.seen(leader), peer.clock.now() + PATIENCE * session.deadlines.round
                self._known = max(self._known, stands)
                await self._skip(stands - 1)
            elif peer.clock.now() >= ends:
                session.lose(leader)  # it is there and does not go on
            elif not await session.stirred():
                await session.probe({leader})
        return None

    async def _was_sent(self) -> bool:
        """Takes part in the round for which the aggregator has sent an average, or ends with the last one."""
        peer = self._peer
        found = [
            (model.round, sender, model)
            for sender, model in self._session.latest(AVERAGE).items()
            if model.round >= peer.finished and self._aggregates(sender, model.round + 1)
        ]
        if not found:
            return False
        round, sender, model = max(found, key=lambda each: each[:2])
        if not await self._read(sender, model):
            return False
        if round < peer.schedule.rounds:
            await self._take_part(round + 1, sender)
        return True

    def _aggregates(self, sender: int, round: int) -> bool:
        """Whether a partner is, or was until it said goodbye, the aggregator of a round."""
        leader = self._leader(round)
        return sender == leader or (sender < leader and sender in self._session.left)

    async def _take_part(self, round: int, by: int | None) -> None:
        """Trains and hands the result over. The last round ends with its average, any other one here."""
        peer, session = self._peer, self._session
        session.enter(round)
        self._known = max(self._known, round)
        left = remembered(peer, LEFT)
        await train(peer, round)
        self._average = None
        peer.phase(round, "exchange")
        began = peer.clock.now()
        self._learned = Learned(await local_model(peer, round), self._aggregator.last, by, left)
        await self._tell(self._leader(round))
        peer.journal.record("exchanged", round=round, received=[], missing=[], seconds=peer.clock.now() - began)
        if round < peer.schedule.rounds:
            await finish(peer, round)

    async def _tell(self, leader: int) -> None:
        """Sends an aggregator this peer's newest model, unless it has it, or others are rounds ahead of that."""
        peer, learned = self._peer, self._learned
        if learned is None or leader in (learned.told, peer.index) or learned.model.round + 1 < self._known:
            return
        learned.told = leader
        both = learned.shared if learned.by in (None, leader) else None
        letter = await peer.clock.work(lambda: for_aggregator(peer, learned.model, both, learned.left), 0.0)
        await self._session.push({leader}, letter)

    # ---- both -----------------------------------------------------------------------------------------------------

    async def _take(self, round: int, average: State) -> None:
        """The learner goes on with the average of a round."""
        if self._aggregator.useful:
            if self._aggregator.held != round - 1:
                self._aggregator.last = None
            self._aggregator.follow(round, average)
            self._aggregator.last = average
        self._learned = None
        self._holds(round)
        await replace_model(self._peer, lambda: average)

    def _holds(self, round: int) -> None:
        self._average = round
        self._given = None
        self._aggregator.note(round)

    async def _skip(self, upto: int) -> None:
        """Rounds in which this peer has nothing more to do are finished, and saved: a run goes on from a common one."""
        for round in range(self._peer.finished + 1, upto + 1):
            await finish(self._peer, round)
        self._session.enter(max(self._session.round, upto))
