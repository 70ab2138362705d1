"""What a peer offers an algorithm, and the round that the synchronous ones share.

An algorithm sees five things: a transport (through a session that knows who is there), a clock, a learner, a journal
and its checkpoints. It never sees which world it runs in.
"""

from __future__ import annotations

import asyncio
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from torch import Tensor

from decentral.algorithms.crowd import Crowd
from decentral.algorithms.packing import for_neighbours, sound
from decentral.algorithms.session import Session
from decentral.core.aggregation import Aggregate, mean
from decentral.core.encodings import Encoding, Plain
from decentral.core.outer import Outer
from decentral.core.rules import Mean, Rule
from decentral.errors import UserError
from decentral.training.learner import Learner, State
from decentral.training.module_work import ModuleWork, module_work
from decentral.wire.clock import Clock
from decentral.wire.messages import Model
from decentral.wire.transport import Transport

MEMORY = "algorithm/"
"""What names of an algorithm's memory begin with in a checkpoint, where they stand beside the optimiser's."""


class Journal(Protocol):
    """Where a peer writes down what happened; the clock's time and the peer's index are added there."""

    def record(self, event: str, **fields: object) -> None: ...


class Keeper(Protocol):
    """Where a peer keeps its checkpoints."""

    def save(
        self, round: int, state: Mapping[str, Tensor], metadata: Mapping[str, str], optimizer: Mapping[str, Tensor]
    ) -> None: ...


class Publisher(Protocol):
    """Writes down what a peer has learned, as others will use it. Blocking."""

    def own(self) -> None:
        """This peer's part alone."""
        ...

    def ensemble(self, parts: Mapping[int, State]) -> None:
        """This peer's part, and those of others by their index, as a whole."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a simulated peer computes, in samples a second; a forward pass is a third of a training step."""

    samples_per_second: float

    def training(self, samples: int) -> float:
        """Seconds."""
        return samples / self.samples_per_second

    def forward(self, samples: int) -> float:
        """Seconds."""
        return samples / (3.0 * self.samples_per_second)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When things happen, in rounds: how many there are, how often a peer evaluates itself and saves a checkpoint."""

    rounds: int
    evaluate_every: int = 1
    checkpoint_every: int = 1
    epochs: int = 1
    pretrain_epochs: int = 0
    steps: int | None = None
    batch_size: int = 32

    def samples(self, round: int, held: int) -> int:
        """Training images that a peer which holds `held` sees in a round; 0 is the round of pre-training."""
        if round == 0:
            return self.pretrain_epochs * held
        return self.epochs * held if self.steps is None else self.steps * min(self.batch_size, held)

    def evaluates(self, round: int) -> bool:
        return round == self.rounds or round % self.evaluate_every == 0

    def saves(self, round: int) -> bool:
        return round == self.rounds or round % self.checkpoint_every == 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What every peer knows of the whole: how many there are, the topology and its edges, the run's seed."""

    peers: int
    topology: str
    edges: tuple[tuple[int, int], ...]
    seed: int


@dataclass(slots=True)
class Peer:
    """One participant, whatever world it lives in. `finished` is the last round that it has completed.

    `memory` is what the algorithm itself remembers from round to round; checkpoints keep it beside the model.
    """

    index: int
    weights: Mapping[int, float]  # this peer's row of the mixing matrix, its own index included
    presence: Session | Crowd
    clock: Clock
    learner: Learner
    journal: Journal
    keeper: Keeper
    schedule: Schedule
    pace: Pace
    layout: Layout
    matching_method: str = "activation"
    matching_statistics: Literal["reestimate", "average"] = "reestimate"  # of BatchNorm, after a merge that matches
    matching_repair: bool | Literal["auto"] = False
    rule: Rule = field(default_factory=Mean)  # how models become one
    batchnorm: Literal["average", "reestimate"] = "average"  # what plain averaging does with BatchNorm's statistics
    encoding: Encoding = field(default_factory=Plain)  # how models are written to be sent
    outer: Outer | None = None  # what becomes of an average
    publisher: Publisher | None = None  # of algorithms that leave more than checkpoints
    finished: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        """Of an algorithm with fixed partners."""
        assert isinstance(self.presence, Session)
        return self.presence

    @property
    def crowd(self) -> Crowd:
        """Of an algorithm that draws samples."""
        assert isinstance(self.presence, Crowd)
        return self.presence

    @property
    def transport(self) -> Transport:
        return self.presence.transport

    def phase(self, round: int, phase: str) -> None:
        self.journal.record("phase", round=round, phase=phase)


class Algorithm(Protocol):
    """What a peer does from its first round to its last."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int] | None:
        """The peers that peer `index` exchanges models with; None: whoever is drawn."""
        ...

    async def run(self, peer: Peer) -> None: ...


class SynchronousRounds(ABC):
    """Train, mix, evaluate, save; the algorithms differ in `mix` alone."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        return frozenset(neighbours)

    async def learn(self, peer: Peer, round: int) -> None:
        """Local training."""
        await train(peer, round)

    @abstractmethod
    async def mix(self, peer: Peer, round: int) -> None:
        """Exchanges models with others and replaces the learner's."""

    async def run(self, peer: Peer) -> None:
        if peer.batchnorm == "reestimate":
            module_work_of(peer, "averaging.batchnorm: reestimate")
        if peer.finished == 0 and peer.schedule.pretrain_epochs:
            await train(peer, 0)
        await self.rounds(peer)

    async def rounds(self, peer: Peer) -> None:
        """From the first that the peer has not finished to the last."""
        round = peer.finished
        while (round := round + 1) <= peer.schedule.rounds:
            peer.session.enter(round)
            if (later := await peer.session.regain()) > round:  # the others went on meanwhile
                round = min(later, peer.schedule.rounds)
                peer.session.enter(round)
            await self.learn(peer, round)
            await self.mix(peer, round)
            if peer.schedule.evaluates(round):
                await evaluate(peer, round)
            await finish(peer, round)


async def train(peer: Peer, round: int, drift: State | None = None) -> None:
    """`drift` is added to the parameters in the course of the round. See `Learner.train`.

    If it is cancelled, training ends with the batch that is under way.
    """
    peer.phase(round, "train")
    began, stopped = peer.clock.now(), threading.Event()
    work = peer.pace.training(peer.schedule.samples(round, peer.learner.samples))
    try:
        report = await peer.clock.work(lambda: peer.learner.train(round, drift, stopped.is_set), work)
    finally:
        stopped.set()
    peer.journal.record(
        "trained", round=round, loss=report.loss, samples=report.samples, seconds=peer.clock.now() - began
    )


async def exchange(
    peer: Peer,
    round: int,
    *,
    to: Collection[int] | None = None,
    of: Collection[int] | None = None,
    own: Model | None = None,
    known: Mapping[int, State] = MappingProxyType({}),
) -> dict[int, Model]:
    """Sends this peer's model and collects those of others, by index; the own model is among them.

    `to` and `of` are the partners that it goes to and those whose models are awaited; None: all. `own` is what is sent,
    if it is not the learner's state. What a message leaves out is filled up with what is `known` of its sender, else
    with the own model. Models that cannot be read, or are not finite, are left out, as if they had not come.
    """
    peer.phase(round, "exchange")
    began = peer.clock.now()
    session = peer.session
    own = own or await local_model(peer, round)
    present = session.present(round)
    awaited = session.partners if of is None else frozenset(of)
    receivers = present if to is None else present & frozenset(to)
    letters = await for_neighbours(peer, own, receivers)
    async with asyncio.TaskGroup() as tasks:
        for some, letter in letters:
            tasks.create_task(session.push(some, letter))
        collecting = tasks.create_task(session.collect(awaited & session.heard(round)))
    came = await sound(peer, collecting.result(), own.tensors, known)
    missing = sorted(awaited - came.keys())
    peer.journal.record(
        "exchanged", round=round, received=sorted(came), missing=missing, seconds=peer.clock.now() - began
    )
    return dict(sorted({peer.index: own, **came}.items()))


async def average(
    peer: Peer,
    round: int,
    models: Mapping[int, Model],
    weights: Mapping[int, float],
    then: Callable[[State], State] = lambda mean: mean,
) -> None:
    """The learner's model becomes what the peer's rule makes of `models`, its own among them, and of their weights.

    The weights, which sum to one, are by index as the models. `then` makes of the result what the learner, whose state
    may be one of `models`, takes over.
    """
    peer.phase(round, "merge")
    began = peer.clock.now()
    results: list[Aggregate] = []

    def merge() -> State:
        results.append(aggregate(peer.rule, models, weights, models[peer.index].tensors))
        return then(results[0].state)

    await replace_model(peer, merge)
    record_merge(peer, round, models, results[0], began)


def aggregate(rule: Rule, models: Mapping[int, Model], weights: Mapping[int, float], trusted: State) -> Aggregate:
    """What a rule makes of models, in their order; `trusted` is the caller's own one, or the last aggregate.

    Where there are too few models for the rule to find out who lies, the trusted one stays as it is.
    """
    states, row = [model.tensors for model in models.values()], [weights[index] for index in models]
    if len(states) >= rule.fewest:
        return rule(states, row, trusted)
    alone = tuple(float(state is trusted) for state in states)
    return Aggregate(mean([trusted], [1.0]).state, alone, tuple(1 - weight for weight in alone))


def record_merge(peer: Peer, round: int, models: Mapping[int, Model], merged: Aggregate, began: float) -> None:
    """Journals what the models weighed and, where there is any, the share of each that the rule left out."""
    out = {index: share for index, share in zip(models, merged.left_out, strict=True) if share > 0}
    peer.journal.record(
        "merged",
        round=round,
        weights=dict(zip(models, merged.weights, strict=True)),
        moved=None,
        **({"left_out": out} if out else {}),
        seconds=peer.clock.now() - began,
    )


async def replace_model(peer: Peer, make: Callable[[], State]) -> None:
    """The learner goes on with the model that `make` returns.

    BatchNorm's statistics are those of that model, or estimated anew on the peer's images: weights that were averaged
    have other activations, and plain averaging without it is no fair baseline (REPAIR, arXiv 2211.08403).
    """
    if peer.batchnorm == "average":
        return await peer.clock.work(lambda: peer.learner.load(make()), 0.0)
    work = module_work_of(peer, "averaging.batchnorm: reestimate")

    def replace() -> None:
        peer.learner.load(make())
        work.reestimate()

    return await peer.clock.work(replace, peer.pace.forward(work.samples))


def module_work_of(peer: Peer, what: str) -> ModuleWork:
    """What can be done with the network of the peer's learner. Raises UserError, which says `what` needs it."""
    work = module_work(peer.learner)
    if work is None:
        kind = type(peer.learner).__name__
        raise UserError(
            f"{what} needs a learner with a torch module as `model` and `matching_batches`; {kind} has none"
        )
    return work


async def local_model(peer: Peer, round: int, tag: str = "local") -> Model:
    """The learner's present state as a message; it is sent, and averaged, before the learner changes it."""
    state = await peer.clock.work(peer.learner.view, 0.0)
    return Model(round=round, tensors=state, samples=peer.learner.samples, tag=tag)


async def evaluate(peer: Peer, round: int) -> None:
    peer.phase(round, "evaluate")
    began = peer.clock.now()
    result = await peer.clock.work(peer.learner.evaluate, 0.0)
    peer.journal.record(
        "evaluated", round=round, accuracy=result.accuracy, loss=result.loss, seconds=peer.clock.now() - began
    )


async def finish(peer: Peer, round: int) -> None:
    """The end of a round: what a restarted peer needs is on disk before the journal says that the round is over."""
    if peer.schedule.saves(round):
        sent = {f"bytes_{kind}": str(size) for kind, size in peer.transport.traffic.as_dict().items()}
        metadata = {"round": str(round), "time": repr(peer.clock.now()), **sent}
        learner = peer.learner

        def save() -> None:
            memory = {f"{MEMORY}{name}": tensor for name, tensor in peer.memory.items()}
            peer.keeper.save(round, learner.view(), metadata, {**learner.optimizer_state(), **memory})

        await peer.clock.work(save, 0.0)
    peer.finished = round
    peer.journal.record("round", round=round, bytes=peer.transport.traffic.as_dict())


def recall(learner: Learner, kept: State) -> dict[str, Tensor]:
    """Gives a learner back its optimiser's state; returns the algorithm's memory, which is kept beside it."""
    learner.load_optimizer({name: tensor for name, tensor in kept.items() if not name.startswith(MEMORY)})
    return {name.removeprefix(MEMORY): tensor for name, tensor in kept.items() if name.startswith(MEMORY)}


def renormalise(weights: Mapping[int, float], present: Collection[int], own: int) -> dict[int, float]:
    """A mixing row over those who are present, by index: what the absent would have weighed goes to all in proportion.

    The row still sums to one; the peer itself is always present.
    """
    kept = {index: weights[index] for index in sorted({own, *present}) if index in weights}
    total = math.fsum(kept.values())
    return {index: weight / total for index, weight in kept.items()}
