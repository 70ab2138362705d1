"""MoDeST: in every round a small sample of all peers trains, found without a server (arXiv 2302.13837).

The rounds are `modest_rounds`, a pure machine; who there is to draw from is the `crowd`. Here the two meet the clock,
the network and the learner: one task feeds the machine its events in order and starts what it asks for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from decentral.algorithms.base import Peer, aggregate, evaluate, finish, record_merge, train
from decentral.algorithms.baton import Relay, read_with_baton, step_from
from decentral.algorithms.modest_end import AGGREGATE, HEIR, hand_on, hand_out, reached, stand_by
from decentral.algorithms.modest_events import (
    AggregateCame,
    Ask,
    Asked,
    Average,
    Averaged,
    Delivered,
    Draw,
    Drawn,
    Effect,
    Elapsed,
    Event,
    Finish,
    GiveUp,
    LocalCame,
    Look,
    Looked,
    Progressed,
    Purpose,
    SendAggregate,
    SendLocal,
    Tell,
    Timer,
    Train,
    Trained,
    Wait,
)
from decentral.algorithms.modest_rounds import WAITS, Rules, State, begin, step
from decentral.algorithms.packing import as_read, for_all, written
from decentral.core.aggregation import Aggregate
from decentral.core.membership import Peers
from decentral.core.sampling import fingerprint
from decentral.core.seeds import derive_seed
from decentral.errors import Refused, TransportError
from decentral.wire.codec import message_size
from decentral.wire.messages import Model, Progress, Resend

LOCAL, AGAIN, RESTART = "local", "again", "restart"
"""Tags of models: a participant's, and one sent in vain before; an average whose successors are lost."""
HURRIED = 4
"""Such a part of its patience an aggregator waits for models that all have been sent before."""


class MoDeST:
    """What a peer does: wait until it is drawn, then train, or average, or both."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> None:
        """Anybody may be drawn."""

    async def run(self, peer: Peer) -> None:
        found = await reached(peer.crowd) if peer.crowd.alone else None
        if peer.crowd.alone and found is None:  # others have finished, or will never come back: what we have is the end
            await evaluate(peer, peer.finished)
        else:
            await Participant(peer, found).run()


class Participant:
    """One peer's life from its first round to the last aggregate."""

    def __init__(self, peer: Peer, found: tuple[int, Model] | None = None) -> None:
        """`found`: a model that came before any was read, and who sent it."""
        self.peer, self.found, self.crowd, self.sampling = peer, found, peer.crowd, peer.crowd.sampling
        self.rules = Rules(
            self.sampling.size,
            self.sampling.aggregators,
            self.sampling.success,
            self.sampling.floor,
            peer.schedule.rounds,
        )
        self.state = State(own=peer.index, held=peer.finished, known=peer.finished, begun=peer.finished)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.timers: dict[Timer, asyncio.TimerHandle] = {}
        self.training: asyncio.Task[None] | None = None
        self.busy: tuple[int, float] | None = None  # the round that the learner trains for, and since when
        self.aggregate: dict[str, Tensor] = {}
        self.holding = peer.finished  # its round; the machine hears of a new one a little later
        self.local: Model | None = None
        self.locals: dict[int, Model] = {}  # the latest of each participant
        self.got: dict[tuple[int, bool], set[int]] = {}  # (round, aggregate or local): to whom we sent it
        self.relay = Relay(peer)
        self.synced = 0  # the oldest news that one of the sample drawn last has had
        self.sampled: tuple[int, tuple[int, ...]] = 0, ()  # the round and the peers of the sample drawn last
        self.made = False  # whether the aggregate that we hold is our own average
        self.spread = False  # whether somebody has taken it from us
        self.heir_of: int | None = None  # who hands out the last aggregate, if we are to step in for it
        self.done = asyncio.Event()

    async def run(self) -> None:
        self.aggregate = await self.peer.clock.work(self.peer.learner.parameters, 0.0)
        if self.holding == 0:
            self.relay.made(0, self.aggregate, None)
        first = self.crowd.order(1, self.rules.sample)
        try:
            await self._take_part(self.peer.index in first)
            await self._end()
        except asyncio.CancelledError:
            if self.made and not self.spread:
                last = self.holding == self.rules.rounds
                letter = written(self.peer, self.peer.encoding.whole, Model(self.holding, self.aggregate))
                await hand_on(self.crowd, self._send, self.holding, letter.tensors, last=last)
            raise

    async def _take_part(self, in_first_sample: bool) -> None:
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            services = [tasks.create_task(self._receive()), tasks.create_task(self._play(in_first_sample))]
            await self.done.wait()
            for timer in self.timers.values():
                timer.cancel()
            for service in services:
                service.cancel()
            self._give_up()

    # ---- events in, effects out -----------------------------------------------------------------------------------

    async def _play(self, in_first_sample: bool) -> None:
        self.state, effects = begin(self.state, self.rules, in_first_sample)
        while True:
            for effect in effects:
                self._start(effect)
            self.crowd.round = self.state.held
            event = await self.events.get()
            self.state, effects = step(self.state, event, self.rules)

    async def _receive(self) -> None:
        if self.found is not None:
            await self._take(*self.found)
        async for envelope in self.peer.transport.inbox(Model, Progress, Resend):
            sender = self.crowd.index_of(envelope.sender)
            if sender is None:
                continue
            match envelope.message:
                case Model() as model:
                    await self._take(sender, model)
                case Progress(round):
                    self.events.put_nowait(Progressed(round))
                case Resend():
                    self.events.put_nowait(Asked(sender))

    async def _take(self, sender: int, model: Model) -> None:
        round = model.round
        if round > self.rules.rounds:
            return
        if not self.crowd.take(model.news, round):
            self.peer.journal.record("rejected", round=round, other=sender, reason="another recipe")
            return
        self.crowd.meet(sender, round)
        own = self.relay.base_of(sender, model, self.aggregate, self.holding)
        if own is None:
            return
        opened = await self.peer.clock.work(lambda: read_with_baton(model, own), 0.0)
        if isinstance(opened, str):
            self.peer.journal.record("rejected", round=round, other=sender, reason=opened)
            return
        found, baton = opened
        if model.tag in (LOCAL, AGAIN):
            if round > self.holding:
                self.locals[sender] = found
                self._take_all(self.relay.took(round, baton))
            self.events.put_nowait(LocalCame(round, sender, again=model.tag == AGAIN))
        else:
            if round > self.holding:
                self._hold(round, dict(found.tensors), made=False)
                self.heir_of = sender if model.tag == HEIR else None
            self.events.put_nowait(AggregateCame(round, restart=model.tag == RESTART))

    def _hold(self, round: int, aggregate: dict[str, Tensor], *, made: bool) -> None:
        """Keeps an aggregate, and forgets the models of rounds up to it."""
        self.aggregate, self.holding, self.made, self.spread = aggregate, round, made, False
        self.locals = {sender: model for sender, model in self.locals.items() if model.round > round}
        self.got = {key: peers for key, peers in self.got.items() if key[0] >= round}
        self._take_all(self.relay.holds(round))

    def _take_all(self, models: Mapping[int, Model]) -> None:
        for sender, model in models.items():
            self._spawn(self._take(sender, model))

    def _start(self, effect: Effect) -> None:
        match effect:
            case Wait(timer, round):
                self._wait(timer, round)
            case Finish():
                self.done.set()
            case Train(round):
                self._give_up()
                self.training = self._spawn(self._train(round))
            case GiveUp():
                self._give_up()
            case Draw(purpose, round):
                self._spawn(self._draw(purpose, round))
            case SendLocal(round, to, resent):
                self._spawn(self._send_local(round, to, resent))
            case SendAggregate(round, to, restart):
                self._spawn(self._send_aggregate(round, to, restart))
            case Average(round, senders):
                self._spawn(self._average(round, senders))
            case Tell(round, to):
                self._spawn(self._letters(to, Progress(round)))
            case Ask(holder):
                self._spawn(self._letters((holder,), Resend(self.state.known)))
            case Look():
                self._spawn(self._look())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.tasks.create_task(work)

    def _wait(self, timer: Timer, round: int) -> None:
        """Peers look around at different times: the first one to notice does so long before the last.

        And often enough to stay candidates, as fast as rounds have come so far.
        """
        seconds = self.sampling.patience
        if timer is Timer.LOOK:
            chance = derive_seed(self.sampling.seed, "look", self.peer.index, round) / 2**63
            window = self.sampling.window * self.peer.clock.now() / round if round else math.inf
            seconds = min(self.sampling.look, window / 3) * (0.5 + chance)
        elif timer is Timer.LOOK_AGAIN:
            seconds *= WAITS + 1
        elif timer is Timer.HURRY:
            timer, seconds = Timer.COLLECT, seconds / HURRIED
        if timer in self.timers:
            self.timers[timer].cancel()
        loop = asyncio.get_running_loop()
        self.timers[timer] = loop.call_later(seconds, self.events.put_nowait, Elapsed(timer, round))

    # ---- what is asked for ----------------------------------------------------------------------------------------

    async def _train(self, round: int) -> None:
        peer, aggregate = self.peer, self.aggregate
        await peer.clock.work(lambda: peer.learner.load(aggregate), 0.0)
        if round > 1:
            if self.made and peer.schedule.evaluates(round - 1):
                await evaluate(peer, round - 1)
            await finish(peer, round - 1)
        self.busy = round, peer.clock.now()
        await train(peer, round)
        self.busy = None
        tensors = await peer.clock.work(peer.learner.parameters, 0.0)
        self.relay.trained(aggregate)
        self.local = Model(round, tensors, samples=peer.learner.samples, tag=LOCAL)
        self.events.put_nowait(Trained(round))

    def _give_up(self) -> None:
        """Training that a newer round has overtaken."""
        if self.training is not None:
            self.training.cancel()
        if self.busy is not None:
            round, began = self.busy
            self.peer.journal.record("abandoned", round=round, seconds=self.peer.clock.now() - began)
            self.busy = None

    async def _draw(self, purpose: Purpose, round: int) -> None:
        candidates = self.crowd.view.candidates(round, self.sampling.window, self.peer.index)
        sample = await self.crowd.draw(round)
        self.synced = sample.synced
        if self.sampled != (round, sample.peers):
            self.sampled = round, sample.peers
            self._record_sample(round, sample.peers, candidates)
        self.events.put_nowait(Drawn(purpose, round, sample.peers))

    def _record_sample(self, round: int, sample: tuple[int, ...], candidates: Peers) -> None:
        """Whom we have drawn, and from whom: a digest that is the same wherever views agree."""
        self.peer.journal.record(
            "sampled",
            round=round,
            participants=sample,
            aggregators=sample[: self.rules.aggregators],
            candidates=len(candidates),
            view=fingerprint(candidates),
        )

    async def _send_local(self, round: int, to: tuple[int, ...], resent: int) -> None:
        local = self.local
        if local is None or local.round != round:
            return
        letter, own = local, local
        if not self.relay.idle:
            write = partial(self.relay.letter, local, made=self.made, again=resent > 0)
            letter, own = await self.peer.clock.work(write, 0.0)
        if self.peer.index in to:
            self.locals[self.peer.index] = own
            self.events.put_nowait(LocalCame(round, self.peer.index, again=resent > 0))
        await self._models(replace(letter, tag=AGAIN if resent else LOCAL), to, again=resent > 1)

    async def _send_aggregate(self, round: int, to: tuple[int, ...], restart: bool) -> None:
        if round == self.holding:
            letter = await for_all(self.peer, Model(round, self.aggregate, tag=AGGREGATE))
            if await self._models(replace(letter, tag=RESTART if restart else AGGREGATE), to, again=restart):
                self.spread = True
                self.events.put_nowait(Delivered(round))

    async def _models(self, model: Model, to: tuple[int, ...], *, again: bool) -> bool:
        """To whom it has not been sent yet, or `again` to all. Returns whether one of them has taken it."""
        got = self.got.setdefault((model.round, model.tag in (LOCAL, AGAIN)), set())
        targets = [peer for peer in to if peer != self.peer.index and (again or peer not in got)]
        if not targets:
            return False
        got.update(targets)
        told = replace(model, news=self.crowd.news(self.synced, model.round))
        async with asyncio.TaskGroup() as tasks:
            sending = {peer: tasks.create_task(self._send(peer, told)) for peer in targets}
        missed = {peer for peer, sent in sending.items() if not sent.result()}
        got -= missed
        took = [peer for peer in targets if peer not in missed]
        self.peer.journal.record(
            "sent",
            round=model.round,
            tag=model.tag,
            to=took,
            missed=sorted(missed),
            view=len(took) * (message_size(told) - message_size(model)),
            bytes=self.peer.transport.traffic.as_dict(),
        )
        return len(took) > 0

    async def _send(self, to: int, model: Model) -> bool:
        try:
            await self.peer.transport.send(self.crowd.id_of(to), model)
        except Refused as refused:
            self.peer.journal.record("refused", round=model.round, other=to, reason=refused.reason.name)
        except TransportError:
            return False
        return True

    async def _letters(self, to: Collection[int], letter: Progress | Resend) -> None:
        async with asyncio.TaskGroup() as tasks:
            for peer in to:
                tasks.create_task(self._letter(peer, letter))

    async def _letter(self, to: int, letter: Progress | Resend) -> None:
        try:
            await self.peer.transport.send(self.crowd.id_of(to), letter)
        except TransportError:
            return  # it is gone, or will ask

    async def _average(self, round: int, senders: tuple[int, ...]) -> None:
        peer = self.peer
        models = {index: self.locals[index] for index in senders if index in self.locals}
        models = {index: model for index, model in models.items() if model.round == round}
        if not models:
            return  # the aggregate came from elsewhere in this moment
        peer.phase(round, "merge")
        began = peer.clock.now()
        samples = math.fsum(model.samples for model in models.values()) or float(len(models))
        weights = {index: (model.samples or 1) / samples for index, model in models.items()}
        last, baton = self.aggregate, self.relay.baton(round)

        def merge() -> tuple[Aggregate, dict[str, Tensor]]:
            made = aggregate(peer.rule, models, weights, last)
            return made, as_read(peer, Model(round, step_from(peer, made.state, baton), tag=AGGREGATE))

        merged, state = await peer.clock.work(merge, 0.0)
        if round <= self.holding:
            return  # another aggregator was faster
        record_merge(peer, round, models, merged, began)
        self._hold(round, state, made=True)
        self.relay.made(round, state, baton)
        self.events.put_nowait(Averaged(round, frozenset(self.crowd.order(round, self.rules.sample))))

    async def _look(self) -> None:
        round, holder = await self.crowd.look()
        self.events.put_nowait(Looked(round, holder))

    # ---- the end --------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Whoever averaged the last round hands the result to all; everybody evaluates it; heirs see to the rest."""
        peer, round, last = self.peer, self.rules.rounds, self.aggregate
        self.crowd.round = round
        letter = replace(await for_all(peer, Model(round, last, tag=AGGREGATE)), news=self.crowd.greeting())
        if self.made:
            await hand_out(self.crowd, self._send, letter, self.state.untold)
            self.spread = True
        await peer.clock.work(lambda: peer.learner.load(last), 0.0)
        await evaluate(peer, round)
        await finish(peer, round)
        if self.heir_of is not None:
            await stand_by(self.crowd, self._send, letter, self.heir_of)
