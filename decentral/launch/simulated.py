"""All peers on a virtual clock and a simulated network, in one process or with their learners in several: the same
recipe, the same peers.

SIMULATED: time, latency, bandwidth, loss, the peers' speed and who crashes when are the recipe's. Training is real, but
for the null learner's. Same seed, same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import async_solipsism

from decentral.algorithms.base import Pace
from decentral.algorithms.catalogue import APART
from decentral.algorithms.presence import Member, Roster
from decentral.core.seeds import derive_seed
from decentral.errors import UserError, leading
from decentral.launch import assembly
from decentral.launch.churn import Change, Schedule, schedule
from decentral.launch.cluster import COUNTER
from decentral.launch.plan import PlannedPeer, make_plan
from decentral.launch.pool.pool import Pool
from decentral.lifetime import ended_by_sigterm
from decentral.run.directory import RunDirectory
from decentral.run.journal import Event, GatheredJournal, Journal, Observer
from decentral.run.recipe import Recipe
from decentral.training.checkpoint import Checkpoints
from decentral.training.learner import Learner
from decentral.wire.clock import VirtualClock
from decentral.wire.identity import Identity
from decentral.wire.memory import MemoryNetwork
from decentral.wire.traces import TRACES, Base, Trace

COLLECTIONS = 20_000, 20, 20
"""Python's thresholds for looking for garbage while peers are simulated; by default they are 700, 10, 10."""
DONE = {"crash": "crashed", "leave": "left"}
"""How the launcher's journal calls a departure."""


class SimulatedRun:
    """A run from this process; `resumed` is the round that all peers go on from, `pool` where their learners are."""

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        *,
        resumed: int | None = None,
        observe: Observer = lambda event: None,
        pool: Pool | None = None,
    ) -> None:
        """Raises UserError where a file of the recipe's trace or churn cannot be used."""
        self.recipe, self.directory = recipe, directory
        self.plan = make_plan(recipe)
        self.trace = make_trace(recipe)
        self._schedule = schedule(recipe)
        self._resumed, self._observe = resumed, observe
        self._pool = pool or Pool(recipe)
        if resumed and recipe.simulation.churn is not None:
            raise UserError("a run with simulation.churn cannot be resumed; run it again: its seed gives the same run")

    def run(self) -> None:
        """Blocking. Raises UserError where a peer cannot use what it was given."""
        with (
            _few_collections(),
            warnings.catch_warnings(),
            self._pool,
            asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner,
        ):
            warnings.simplefilter("ignore", async_solipsism.ResolutionWarning)  # less than a microsecond is no time
            try:
                runner.run(self._simulate())
            except BaseExceptionGroup as group:
                raise leading(group) or group from None

    async def _simulate(self) -> None:
        world = asyncio.ensure_future(self._play())
        try:
            with ended_by_sigterm():
                await asyncio.wait([world])
        except asyncio.CancelledError:
            self._pool.stop()  # who is cancelled waits for its work; nobody wants it now
            world.cancel()
            await asyncio.wait([world])
            raise
        await world

    async def _play(self) -> None:
        shape, seed = self.recipe.simulation, self.recipe.seed
        identities = [Identity.from_seed(f"{seed}/{peer.index}".encode()) for peer in self.plan.peers]
        network_seed = derive_seed(seed, "network")
        clock = VirtualClock(None)
        with Journal(self.directory.journal_file("launcher"), None, clock.now, self._observe) as journal:
            journal.record("launched" if self._resumed is None else "resumed", round=self._resumed or 0)
            async with asyncio.TaskGroup() as tasks:
                world = Simulation(
                    network=MemoryNetwork(shape.latency, shape.bandwidth, shape.loss, network_seed, self.trace),
                    clock=clock,
                    identities=identities,
                    roster=Roster(Member(p.index, p.name, identities[p.index].id, p.name) for p in self.plan.peers),
                    journal=journal,
                    tasks=tasks,
                )
                present = [peer for peer in self.plan.peers if peer.index not in self._schedule.absent]
                for peer, learner in [(peer, self._pool.assemble(peer.index)) for peer in present]:
                    self._start(peer, world, learner, running=False)
                if self.recipe.simulation.churn is not None:
                    await self._come_and_go(self._schedule, world)

    def _start(self, peer: PlannedPeer, world: Simulation, learner: Future[Learner], *, running: bool) -> None:
        world.lives[peer.index] = world.tasks.create_task(self._live(peer, world, learner.result(), running))

    async def _live(self, peer: PlannedPeer, world: Simulation, learner: Learner, running: bool) -> None:
        """One peer, as `nodes/peer.py` lives it in a process of its own."""
        algorithm, identity = assembly.assemble_algorithm(self.recipe), world.identities[peer.index]
        light = getattr(learner, "without_data", False)
        checkpoints: assembly.Shelf = (
            world.shelves.setdefault(peer.index, assembly.MemoryShelf())
            if light
            else Checkpoints(self.directory.checkpoints, peer.name, self.plan.kept_checkpoints)
        )
        start = assembly.restore(checkpoints, learner, self._resumed, together=self.recipe.algorithm not in APART)
        clock = VirtualClock(None if light else self._pool.thread(peer.index))
        pace = None if self.trace is None else Pace(self.trace.speed[peer.index])
        signer = assembly.SimulatedSigner(identity, self.directory.nodes / peer.name / COUNTER)
        with (
            contextlib.closing(signer),
            GatheredJournal(
                self.directory.journal_file(peer.name), peer.index, clock.now, self._watching(world)
            ) as journal,
        ):
            transport = world.network.transport(
                identity.id,
                limits=assembly.limits_for(learner, self.recipe),
                call_deadline=self.recipe.deadlines.call,
                index=peer.index,
                padding=getattr(learner, "padding", 0),
            )
            async with assembly.open_peer(
                recipe=self.recipe,
                plan=self.plan,
                index=peer.index,
                roster=world.roster,
                algorithm=algorithm,
                learner=learner,
                transport=transport,
                clock=clock,
                journal=journal,
                checkpoints=checkpoints,
                signer=signer,
                pace=pace,
                directory=self.directory,
            ) as opened:
                await assembly.take_part(opened, algorithm, start, running=running)
            await transport.close()  # whoever has finished is gone, as a process is

    def _watching(self, world: Simulation) -> Observer:
        """Tells the launcher's journal of a peer that is back, as the launcher of real processes does."""
        if self.recipe.simulation.churn is None:
            return self._observe

        def observe(event: Event) -> None:
            self._observe(event)
            if event["event"] == "started" and event["rejoined"]:
                back = event["peer"] in world.gone
                world.gone.discard(event["peer"])
                world.journal.record("rejoined" if back else "joined", other=event["peer"])
            elif event["event"] == "finished":
                world.finished = True

        return observe

    async def _come_and_go(self, plan: Schedule, world: Simulation) -> None:
        """Applies the changes at their times, until somebody has finished and nobody goes on."""
        for change in plan.changes:
            due = asyncio.create_task(world.clock.sleep(max(change.at - world.clock.now(), 0.0)))
            while not due.done():
                living = [life for life in world.lives.values() if not life.done()]
                if not living and world.finished:
                    due.cancel()
                    return
                await asyncio.wait([due, *living], return_when=asyncio.FIRST_COMPLETED)
            await self._apply(change, world)

    async def _apply(self, change: Change, world: Simulation) -> None:
        """A change that cannot be, such as the crash of a peer that has finished, does nothing."""
        peer, life = self.plan.peers[change.peer], world.lives.get(change.peer)
        alive = life is not None and not life.done()
        if change.what in ("return", "join"):
            if life is None or change.peer in world.gone:
                self._start(peer, world, self._pool.assemble(peer.index), running=True)
        elif life is not None and alive:
            world.gone.add(change.peer)
            world.journal.record(DONE[change.what], other=change.peer)
            if change.what == "crash":
                world.network.crash(world.identities[change.peer].id)
            life.cancel()
            await asyncio.wait([life])
            world.network.crash(world.identities[change.peer].id)  # who has said goodbye is not there either


@dataclass(slots=True)
class Simulation:
    """What simulated peers share; their identities, by index, follow from the seed and are no secret."""

    network: MemoryNetwork
    clock: VirtualClock
    identities: list[Identity]
    roster: Roster
    journal: Journal
    tasks: asyncio.TaskGroup
    lives: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    shelves: dict[int, assembly.MemoryShelf] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    finished: bool = False


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Garbage is looked for less often: thousands of peers are many objects, and hardly any of them is garbage."""
    before = gc.get_threshold()
    gc.freeze()  # what was there before, torch above all, stays
    gc.set_threshold(*COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def make_trace(recipe: Recipe) -> Trace | None:
    """What the recipe's trace says of each peer; None: all are alike. Raises UserError."""
    shape = recipe.simulation
    if shape.trace is None:
        return None
    base = Base(shape.latency, shape.bandwidth, shape.samples_per_second)
    trace: Trace = TRACES.construct(shape.trace.name, recipe.peers, recipe.seed, base, **shape.trace.options)
    return trace
