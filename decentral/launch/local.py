"""A run's peers as processes of this machine, from the first start to the last end.

The launcher follows the nodes' journals, starts again who crashed if it is asked to, and writes down who crashed and
who came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Protocol

from decentral.algorithms.presence import Member
from decentral.errors import DecentralError, UserError, leading
from decentral.launch.cluster import is_running
from decentral.launch.joining import vouch_for
from decentral.launch.nodes import introduced, open_nodes
from decentral.launch.observing.endpoint import At
from decentral.launch.plan import Plan, make_plan
from decentral.launch.quoting import quoting_for
from decentral.lifetime import end_on_sigterm
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal, Observer, Tail, journals, read
from decentral.run.recipe import Recipe

_LOG = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between looks at the journals."""


class Homeless(DecentralError):
    """A node that crashed and finds no machine any more: the others go on without it."""


class Starting(Protocol):
    """What starts nodes."""

    async def start(self, index: int, script: str, *arguments: str) -> Awaitable[int | None]:
        """What comes is the exit code, negative for a signal; None: nobody knows, since its machine is gone.

        Raises Homeless.
        """


class LocalRun:
    """The launcher's view of a run: starts the nodes, follows them to their end, restarts them if asked to."""

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        *,
        plugins: tuple[str, ...] = (),
        resumed: int | None = None,
        restarts: int = 0,
        port: int | None = None,
        metrics: At | None = None,
        observe: Observer = lambda event: None,
    ) -> None:
        self.recipe, self.directory = recipe, directory
        self.plan: Plan = make_plan(recipe)
        self._plugins, self._resumed, self._restarts, self._port = plugins, resumed, restarts, port
        self._metrics = metrics
        self._observe = observe
        self._tail = Tail(directory.path)
        self._tail.poll()  # what an interrupted run wrote is known
        self._finished: set[int] = set()
        self._crashed: set[int] = set()
        self._revoked: set[int] = set()
        self._failed: dict[int, str] = {}

    async def run(self) -> None:
        """Returns when every peer has finished or is gone.

        Raises UserError if a peer could not use what it was given, and DecentralError if none finished.
        """
        end_on_sigterm()
        epoch = time.time() - last_time(self.directory.path)
        journal = self.directory.journal_file("launcher")
        with Journal(journal, None, lambda: time.time() - epoch) as self._journal:
            self._journal.record("launched" if self._resumed is None else "resumed", round=self._resumed or 0)
            try:
                await self._supervise(epoch)
            except asyncio.CancelledError:
                self._journal.record("interrupted")
                raise
        if not self._finished:
            raise DecentralError(f"no peer finished; their logs are under {self.directory.path / 'nodes'}")

    @contextlib.asynccontextmanager
    async def _nodes(self, epoch: float) -> AsyncIterator[tuple[Starting, tuple[Member, ...]]]:
        """Who takes part, and what starts them, for as long as the body runs."""
        names = [peer.name for peer in self.plan.peers]
        with introduced(self.directory, names, self._port) as members:
            vouch = await asyncio.to_thread(vouch_for, self.directory)
            async with (
                quoting_for(self.directory, self._journal) as quotes,
                open_nodes(self.directory, members, epoch, self._plugins, vouch=vouch, metrics=self._metrics) as nodes,
            ):
                if quotes is not None:
                    await quotes.wait()
                yield nodes, members

    async def _supervise(self, epoch: float) -> None:
        try:
            async with self._nodes(epoch) as (nodes, members), asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow())
                async with asyncio.TaskGroup() as lives:
                    for member in members:
                        lives.create_task(self._keep(nodes, member))
                await self._await_returned(members)
                following.cancel()
        except BaseExceptionGroup as group:
            raise leading(group) or group from None

    async def _keep(self, nodes: Starting, member: Member) -> None:
        """One node from its first start to its last end."""
        resumed = () if self._resumed is None else ("--resumed", str(self._resumed))
        for attempt in range(self._restarts + 1):
            try:
                ending = await nodes.start(member.index, "peer.py", *(resumed if attempt == 0 else ()))
            except Homeless as error:
                _LOG.warning("%s", error)
                return
            code = await ending
            self._drain()
            if member.index in self._failed:
                raise UserError(f"{member.name}: {self._failed[member.index]}")
            if member.index in self._finished:
                return
            self._crashed.add(member.index)
            self._note("crashed", member.index, code=code)
            if member.index in self._revoked:
                return  # nobody would talk to it

    async def _await_returned(self, members: tuple[Member, ...]) -> None:
        """Waits for peers that crashed and were started again by somebody else."""
        for member in members:
            while member.index not in self._finished and is_running(self.directory.node(member.name)):
                await asyncio.sleep(POLL)
                self._drain()

    async def _follow(self) -> None:
        while True:
            self._drain()
            await asyncio.sleep(POLL)

    def _drain(self) -> None:
        """Takes in what the nodes have written since the last look."""
        for event in self._tail.poll():
            self._observe(event)
            index = event["peer"]
            match event["event"]:
                case "finished":
                    self._finished.add(index)
                case "revoked":
                    self._revoked.add(index)
                case "failed" if event["user"] and index is not None:
                    self._failed[index] = event["problem"]
                case "started" if event["rejoined"]:
                    self._note("rejoined", index)

    def _note(self, event: str, index: int, **fields: object) -> None:
        self._journal.record(event, other=index, **fields)


def last_time(path: Path) -> float:
    """Where the run's clock stopped when it was interrupted; 0 for a new run."""
    return max((event["t"] for journal in journals(path) for event in read(journal)), default=0.0)
