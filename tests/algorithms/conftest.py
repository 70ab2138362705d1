"""A small world for algorithms: real sessions and transports on the simulated network, a learner that only counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import async_solipsism
import pytest
import torch
from torch import Tensor

from decentral.algorithms.base import Layout, Pace, Peer, Schedule, recall
from decentral.algorithms.crowd import Crowd, Sampling
from decentral.algorithms.presence import Deadlines, Member
from decentral.algorithms.session import Session
from decentral.core import topology
from decentral.core.encodings import Encoding, Plain
from decentral.core.outer import Outer
from decentral.core.rules import Mean, Rule
from decentral.training.learner import Evaluation, TrainingReport
from decentral.wire.clock import VirtualClock
from decentral.wire.identity import Identity
from decentral.wire.memory import MemoryNetwork
from decentral.wire.messages import MembershipRecord, MembershipStatus


class CountingLearner:
    """One parameter that starts at the peer's index; training adds a step, evaluation reports it as the loss."""

    def __init__(self, index: int, step: float, samples: int) -> None:
        self.samples, self._step = samples, step
        self.value = torch.tensor([float(index)], dtype=torch.float64)
        self.trained: list[int] = []

    def train(self, round: int, drift: Mapping[str, Tensor] | None = None, stop: object = None) -> TrainingReport:
        self.trained.append(round)
        self.value = self.value + self._step + (drift or {}).get("value", 0.0)
        return TrainingReport(loss=0.0, samples=self.samples, steps=1)

    def parameters(self) -> dict[str, Tensor]:
        return {"value": self.value.clone()}

    def view(self) -> dict[str, Tensor]:
        return self.parameters()

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.value = parameters["value"].clone()

    def evaluate(self) -> Evaluation:
        return Evaluation(loss=self.value.item(), accuracy=0.5, samples=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        return {}

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        assert not state

    def class_counts(self) -> list[int]:
        return [self.samples]


class Listing:
    """A journal in memory, with the time at which each thing happened."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.events: list[dict[str, Any]] = []

    def record(self, event: str, **fields: object) -> None:
        self.events.append({"t": self._clock.now(), "event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.events if entry["event"] == event]


class Shelf:
    """Keeps the states that a peer saved, by round."""

    def __init__(self) -> None:
        self.saved: dict[int, Mapping[str, Tensor]] = {}
        self.memory: dict[str, Tensor] = {}

    def save(
        self, round: int, state: Mapping[str, Tensor], metadata: Mapping[str, str], optimizer: Mapping[str, Tensor]
    ) -> None:
        self.saved[round] = {name: tensor.clone() for name, tensor in state.items()}
        self.memory = {name: tensor.clone() for name, tensor in optimizer.items()}


class Published:
    """What a peer left behind: its own value, and those of the parts of an ensemble, by peer."""

    def __init__(self, learner: CountingLearner) -> None:
        self._learner = learner
        self.alone: float | None = None
        self.parts: dict[int, float] = {}

    def own(self) -> None:
        self.alone = self._learner.value.item()

    def ensemble(self, parts: Mapping[int, Mapping[str, Tensor]]) -> None:
        self.parts = {index: state["value"].item() for index, state in parts.items()}


@dataclass
class Counting:
    """Signs membership records with a counter that survives the peer."""

    identity: Identity
    counter: int = 0

    def record(self, status: MembershipStatus, address: str, first_round: int) -> MembershipRecord:
        self.counter += 1
        return self.identity.record(status, self.counter, address, first_round)


SAMPLING = Sampling(size=3, aggregators=1, success=1.0, floor=2, window=100, ping=0.5, patience=5.0, look=20.0, seed=0)


@dataclass
class World:
    """Peers of one algorithm on one simulated network; everything of a peer is at its index."""

    count: int
    algorithm: Callable[[], Any]
    topology_name: str = "ring"
    rounds: int = 5
    step: float = 1.0
    samples: Callable[[int], int] = lambda index: 100
    hashes: Callable[[int], str] = lambda index: "recipe"
    loss: float = 0.0
    bandwidth: float = 12.5e6
    batchnorm: str = "average"
    rule: Rule = field(default_factory=Mean)
    encoding: Callable[[int], Encoding] = lambda index: Plain()
    outer: Outer | None = None
    sampling: Sampling = SAMPLING
    network: MemoryNetwork = field(init=False)
    learners: list[CountingLearner] = field(init=False)
    journals: dict[int, Listing] = field(default_factory=dict)
    shelves: dict[int, Shelf] = field(default_factory=dict)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    sessions: dict[int, Session | Crowd] = field(default_factory=dict)
    peers: dict[int, Peer] = field(default_factory=dict)
    publishers: dict[int, Published] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identities = [Identity.from_seed(bytes([index])) for index in range(self.count)]
        self.signers = [Counting(identity) for identity in self.identities]
        self.members = [Member(i, f"peer-{i}", who.id, f"memory:{i}") for i, who in enumerate(self.identities)]
        graph = topology.build(self.topology_name, self.count)
        self.mixing = topology.metropolis_hastings(graph)
        self.layout = Layout(self.count, self.topology_name, tuple(graph.edges), seed=0)
        self.neighbours = [sorted(graph.neighbors(i)) for i in range(self.count)]
        self.learners = [CountingLearner(i, self.step, self.samples(i)) for i in range(self.count)]

    async def live(self, index: int, finished: int = 0, running: bool = False) -> None:
        """What a peer's process does: open a session, greet, run."""
        clock, algorithm = VirtualClock(self.worker), self.algorithm()
        journal = self.journals.setdefault(index, Listing(clock))
        partners = algorithm.partners(index, self.neighbours[index], self.count)
        newest = getattr(algorithm, "newest", frozenset())
        meet = (
            partial(Crowd, sampling=self.sampling) if partners is None else partial(Session, newest, partners=partners)
        )
        session = meet(
            index=index,
            roster=self.members,
            transport=self.network.transport(self.identities[index].id),
            clock=clock,
            journal=journal,
            signer=self.signers[index],
            deadlines=Deadlines(round=30.0, probe=1.0, call=2.0),
            recipe_hash=self.hashes(index),
            schema_hash="schema",
            rounds=self.rounds,
        )
        self.sessions[index] = session
        async with session.open():
            peer = Peer(
                index=index,
                weights={other: float(w) for other, w in enumerate(self.mixing[index]) if w > 0},
                presence=session,
                clock=clock,
                learner=self.learners[index],
                journal=journal,
                keeper=self.shelves.setdefault(index, Shelf()),
                schedule=Schedule(rounds=self.rounds),
                pace=Pace(samples_per_second=100.0),
                layout=self.layout,
                batchnorm=self.batchnorm,
                rule=self.rule,
                publisher=self.publishers.setdefault(index, Published(self.learners[index])),
                encoding=self.encoding(index),
                outer=self.outer,
            )
            self.peers[index] = peer
            peer.memory = recall(peer.learner, self.shelves[index].memory)
            arrived = await session.join(finished, running)
            peer.finished = finished if getattr(algorithm, "apart", False) else arrived
            await algorithm.run(peer)
            journal.record("finished", round=peer.finished)
        await session.transport.close()  # whoever has finished is gone

    def start(self, index: int, finished: int = 0, running: bool = False) -> None:
        self.tasks[index] = asyncio.create_task(self.live(index, finished, running))

    async def crash(self, index: int) -> None:
        """As SIGKILL does: no goodbye, and nobody answers at the address."""
        self.network.crash(self.identities[index].id)
        self.tasks[index].cancel()
        await asyncio.gather(self.tasks[index], return_exceptions=True)

    @staticmethod
    def killing(index: int, at: float, away: float | None = None) -> Script:
        """A peer is killed, and comes back from its last checkpoint after some seconds, or never."""

        async def script(stage: World) -> None:
            await asyncio.sleep(at)
            await stage.crash(index)
            if away is None:
                del stage.tasks[index]
            else:
                finished = max(stage.shelves[index].saved)
                await asyncio.sleep(away)
                stage.start(index, finished, running=True)

        return script

    async def all_end(self) -> None:
        """Whoever was killed meanwhile is no longer among the tasks."""
        started = dict(self.tasks)
        await asyncio.gather(*started.values(), return_exceptions=True)
        for index in started.keys() & self.tasks.keys():
            self.tasks[index].result()

    def play(self, script: Script | None = None) -> World:
        """Starts all peers, runs the script beside them in virtual time, and waits for their end."""

        async def scene() -> None:
            self.network = MemoryNetwork(latency=0.01, bandwidth=self.bandwidth, loss=self.loss, seed=1)
            for index in range(self.count):
                self.start(index)
            if script is not None:
                await script(self)
            await self.all_end()

        with (
            ThreadPoolExecutor(1) as self.worker,
            asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner,
        ):
            runner.run(scene())
        return self

    @property
    def values(self) -> list[float]:
        return [learner.value.item() for learner in self.learners]


Script = Callable[[World], Coroutine[None, None, None]]
"""What happens to a world beside what its peers do."""


@pytest.fixture
def world() -> type[World]:
    return World
