"""All peers in one process, on a virtual clock and a simulated network: the same recipe, the same peers.

SIMULATED: time, latency, bandwidth and loss are the recipe's numbers. Training is real. Same seed, same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import async_solipsism
import torch

from decentral.algorithms.session import Member
from decentral.core.seeds import derive_seed
from decentral.errors import leading
from decentral.launch import assembly
from decentral.launch.plan import PlannedPeer, make_plan
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal, Observer
from decentral.run.recipe import Recipe
from decentral.training.checkpoint import Checkpoints
from decentral.training.learner import Learner
from decentral.wire.clock import VirtualClock
from decentral.wire.identity import Identity
from decentral.wire.memory import MemoryNetwork


class SimulatedRun:
    """A run in this process; `resumed` is the round that all peers go on from."""

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        *,
        resumed: int | None = None,
        observe: Observer = lambda event: None,
    ) -> None:
        self.recipe, self.directory = recipe, directory
        self.plan = make_plan(recipe)
        self._resumed, self._observe = resumed, observe

    def run(self) -> None:
        """Blocking. Raises UserError where a peer cannot use what it was given."""
        with (
            ThreadPoolExecutor(1, "work", torch.set_num_threads, (self.recipe.threads,)) as worker,
            asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner,
        ):
            try:
                runner.run(self._simulate(worker))
            except BaseExceptionGroup as group:
                raise leading(group) or group from None

    async def _simulate(self, worker: ThreadPoolExecutor) -> None:
        shape = self.recipe.simulation
        network = MemoryNetwork(
            latency=shape.latency,
            bandwidth=shape.bandwidth,
            loss=shape.loss,
            seed=derive_seed(self.recipe.seed, "network"),
        )
        clock = VirtualClock(worker)
        identities = [
            Identity.from_seed(f"{self.recipe.seed}/{peer.index}".encode()) for peer in self.plan.peers
        ]
        roster = [
            Member(peer.index, peer.name, identity.id, f"memory:{peer.index}")
            for peer, identity in zip(self.plan.peers, identities, strict=True)
        ]
        with Journal(self.directory.journal_file("launcher"), None, clock.now, self._observe) as journal:
            journal.record("launched" if self._resumed is None else "resumed", round=self._resumed or 0)
            async with asyncio.TaskGroup() as tasks:
                for peer, identity in zip(self.plan.peers, identities, strict=True):
                    learner = worker.submit(assembly.assemble_learner, self.recipe, peer.index).result()
                    tasks.create_task(self._live(peer, identity, roster, network, clock, learner))

    async def _live(
        self,
        peer: PlannedPeer,
        identity: Identity,
        roster: Sequence[Member],
        network: MemoryNetwork,
        clock: VirtualClock,
        learner: Learner,
    ) -> None:
        algorithm = assembly.assemble_algorithm(self.recipe)
        folder = self.directory.node(peer.name)
        checkpoints = Checkpoints(self.directory.checkpoints, peer.name, self.plan.kept_checkpoints)
        async with AsyncExitStack() as stack:
            journal = stack.enter_context(
                Journal(self.directory.journal_file(peer.name), peer.index, clock.now, self._observe)
            )
            start = assembly.restore(checkpoints, learner, self._resumed)
            opened = await stack.enter_async_context(
                assembly.open_peer(
                    recipe=self.recipe,
                    plan=self.plan,
                    index=peer.index,
                    roster=roster,
                    algorithm=algorithm,
                    learner=learner,
                    transport=network.transport(identity.id),
                    clock=clock,
                    journal=journal,
                    checkpoints=checkpoints,
                    signer=assembly.Signer(identity, folder / "counter"),
                )
            )
            await assembly.take_part(opened, algorithm, start, running=False)
