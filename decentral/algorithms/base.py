"""What a peer offers an algorithm, and the round that the synchronous ones share.

An algorithm sees five things: a transport (through a session that knows who is there), a clock, a learner, a journal
and its checkpoints. It never sees which world it runs in.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from decentral.algorithms.session import Session
from decentral.training.learner import Learner
from decentral.wire.clock import Clock
from decentral.wire.messages import Model


class Journal(Protocol):
    """Where a peer writes down what happened; the clock's time and the peer's index are added there."""

    def record(self, event: str, **fields: object) -> None: ...


class Keeper(Protocol):
    """Where a peer keeps its checkpoints."""

    def save(
        self, round: int, state: Mapping[str, Tensor], metadata: Mapping[str, str], optimizer: Mapping[str, Tensor]
    ) -> None: ...


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

    def evaluates(self, round: int) -> bool:
        return round == self.rounds or round % self.evaluate_every == 0

    def saves(self, round: int) -> bool:
        return round == self.rounds or round % self.checkpoint_every == 0


@dataclass(slots=True)
class Peer:
    """One participant, whatever world it lives in. `finished` is the last round that it has completed."""

    index: int
    weights: Mapping[int, float]  # this peer's row of the mixing matrix, its own index included
    session: Session
    clock: Clock
    learner: Learner
    journal: Journal
    keeper: Keeper
    schedule: Schedule
    pace: Pace
    matching_method: str = "activation"
    finished: int = 0

    def phase(self, round: int, phase: str) -> None:
        self.journal.record("phase", round=round, phase=phase)


class Algorithm(Protocol):
    """What a peer does from its first round to its last."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        """The peers that peer `index` exchanges models with."""
        ...

    async def run(self, peer: Peer) -> None: ...


class SynchronousRounds(ABC):
    """Train, mix, evaluate, save; the algorithms differ in `mix` alone."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        return frozenset(neighbours)

    @abstractmethod
    async def mix(self, peer: Peer, round: int) -> None:
        """Exchanges models with others and replaces the learner's."""

    async def run(self, peer: Peer) -> None:
        if peer.finished == 0 and peer.schedule.pretrain_epochs:
            await train(peer, 0, peer.schedule.pretrain_epochs)
        for round in range(peer.finished + 1, peer.schedule.rounds + 1):
            peer.session.enter(round)
            await train(peer, round, peer.schedule.epochs)
            await self.mix(peer, round)
            if peer.schedule.evaluates(round):
                await evaluate(peer, round)
            await finish(peer, round)


async def train(peer: Peer, round: int, epochs: int) -> None:
    peer.phase(round, "train")
    began = peer.clock.now()
    report = await peer.clock.work(lambda: peer.learner.train(round), peer.pace.training(epochs * peer.learner.samples))
    peer.journal.record(
        "trained", round=round, loss=report.loss, samples=report.samples, seconds=peer.clock.now() - began
    )


async def exchange(peer: Peer, round: int) -> dict[int, Model]:
    """Sends this peer's model to all its partners and collects theirs, by index; the own model is among them.

    Models that are not finite are left out, as if they had not come.
    """
    peer.phase(round, "exchange")
    began = peer.clock.now()
    session = peer.session
    own = await local_model(peer, round)
    partners = session.present(round)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(session.push(partners, own))
        collecting = tasks.create_task(session.collect(partners))
    came = await sound(peer, collecting.result())
    missing = sorted(session.partners - came.keys())
    peer.journal.record(
        "exchanged", round=round, received=sorted(came), missing=missing, seconds=peer.clock.now() - began
    )
    return dict(sorted({peer.index: own, **came}.items()))


async def local_model(peer: Peer, round: int) -> Model:
    """The learner's present state as a message; it is sent, and averaged, before the learner changes it."""
    state = await peer.clock.work(peer.learner.view, 0.0)
    return Model(round=round, tensors=state, samples=peer.learner.samples)


async def sound(peer: Peer, models: Mapping[int, Model]) -> dict[int, Model]:
    """Those of the models that are finite throughout; the others are written down as rejected."""
    checked = await peer.clock.work(lambda: {index: finite(model.tensors) for index, model in models.items()}, 0.0)
    for index, good in checked.items():
        if not good:
            peer.journal.record("rejected", round=peer.session.round, other=index, reason="not finite")
    return {index: model for index, model in models.items() if checked[index]}


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
        metadata = {"round": str(round), "time": repr(peer.clock.now()), **peer.session.counters()}
        learner = peer.learner
        await peer.clock.work(lambda: peer.keeper.save(round, learner.view(), metadata, learner.optimizer_state()), 0.0)
    peer.finished = round
    peer.journal.record("round", round=round, bytes=peer.session.transport.traffic.as_dict())


def renormalise(weights: Mapping[int, float], present: Collection[int], own: int) -> dict[int, float]:
    """A mixing row over those who are present, by index: what the absent would have weighed goes to all in proportion.

    The row still sums to one; the peer itself is always present.
    """
    kept = {index: weights[index] for index in sorted({own, *present}) if index in weights}
    total = math.fsum(kept.values())
    return {index: weight / total for index, weight in kept.items()}


def finite(state: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity. One cheap pass; a sum that overflows is looked at again."""
    return all(
        bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
        for tensor in state.values()
        if tensor.is_floating_point()
    )
