"""A standing cluster of nodes that answer clients, until the launcher is told to end.

Each node is a peer of a finished run and serves the part of the model that it has, or it was added to such a run
(`guests`), or it is a replica of a stage. A node that crashes is started again a few times, each time after a longer
pause; its clients go on with the others meanwhile. Nodes of experts come and go while the cluster stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from decentral.algorithms.catalogue import SERVED
from decentral.errors import DecentralError, UserError, leading
from decentral.launch.changes import DIGEST, LOOK, adopt, forget, has_left, leave
from decentral.launch.draining import is_marked, unmark
from decentral.launch.local import last_time
from decentral.launch.nodes import Nodes, Part, introduced, open_nodes
from decentral.launch.observing.endpoint import At
from decentral.launch.quoting import quoting_for
from decentral.lifetime import end_on_sigterm
from decentral.run.directory import AnyDirectory, RunDirectory, ServingDirectory, peer_name
from decentral.run.journal import Journal, Observer, Tail
from decentral.trust.anchors import FILE, Anchors

EXPERT = "expert"
"""A node's folder of the expert that it has trained; the file `DIGEST` there names that model."""
PART = "part"
"""The file in the folder of a node that was added, with the name of what it serves."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before a crashed node is started again, doubled each time."""
SETTLED = 300.0
"""Seconds after which a node that crashes is taken for one that has never crashed."""


class ServingRun:
    """The launcher's view of a standing cluster."""

    def __init__(
        self,
        directory: AnyDirectory,
        parts: Sequence[Part],
        *,
        plugins: tuple[str, ...] = (),
        restarts: int = 3,
        port: int | None = None,
        metrics: At | None = None,
        observe: Observer = lambda event: None,
    ) -> None:
        self.directory, self.parts = directory, list(parts)
        self._plugins, self._restarts, self._port, self._observe = plugins, restarts, port, observe
        self._metrics = metrics
        self._tail = Tail(directory.path)
        self._tail.poll()  # what the run wrote is known
        self._failed: dict[int, str] = {}
        self._serving: set[int] = set()
        self._revoked: set[int] = set()
        self._newcomers: set[int] = set()
        """Added while the cluster stands, and not yet part of it."""

    async def run(self) -> None:
        """Serves until it is cancelled or SIGTERM comes.

        Raises UserError if a node could not use what it was given, and DecentralError when none is left.
        """
        end_on_sigterm()
        epoch = time.time() - last_time(self.directory.path)
        names = [part.node for part in self.parts]
        for name in names:
            unmark(self.directory.node(name))  # whoever brings the cluster up brings up all of it
        if isinstance(self.directory, RunDirectory):
            for name in names:
                adopt(self.directory, name)  # of a node that was added when the cluster went down
        with (
            introduced(self.directory, names, self._port) as members,
            Journal(self.directory.journal_file("launcher"), None, lambda: time.time() - epoch) as self._journal,
        ):
            try:
                async with (
                    quoting_for(self.directory, self._journal) as quotes,
                    open_nodes(
                        self.directory, members, epoch, self._plugins, self.parts, metrics=self._metrics
                    ) as nodes,
                ):
                    nodes.invite(self.directory.client)
                    if quotes is not None:
                        await quotes.wait()
                    async with asyncio.TaskGroup() as tasks:
                        async with asyncio.TaskGroup() as lives:
                            for index, part in enumerate(self.parts):
                                if part.script:
                                    lives.create_task(self._keep(nodes, index, part))
                            looking = tasks.create_task(self._look(nodes, lives))
                        looking.cancel()
            except BaseExceptionGroup as group:
                raise leading(group) or group from None
        raise DecentralError(f"no node is left; their logs are under {self.directory.nodes}")

    async def _keep(self, nodes: Nodes, index: int, part: Part) -> None:
        """One node from its first start to its last end."""
        crashes, folder = 0, self.directory.node(part.node)
        while crashes <= self._restarts:
            if crashes:
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (crashes - 1), LONGEST_PAUSE))
            while is_marked(folder):  # noqa: ASYNC110  a command marks it
                await asyncio.sleep(LOOK)
            began = time.monotonic()
            code = await (await nodes.start(index, part.script))
            self._drain()
            if not self.parts[index].script:
                return  # it has left
            if is_marked(folder):
                crashes = 0
                continue  # as it was told
            if index in self._newcomers:
                self._turn_away(index, self._failed.get(index, f"ended with exit code {code} before it served"))
                return
            if index in self._failed:
                raise UserError(f"{part.node}: {self._failed[index]}")
            self._journal.record("crashed", other=index, code=code)
            if index in self._revoked:
                return  # nobody would talk to it
            crashes = 1 if time.monotonic() - began > SETTLED else crashes + 1

    async def _look(self, nodes: Nodes, lives: asyncio.TaskGroup) -> None:
        """At all that changes, in one go: on an idle machine to wake up costs more than to look."""
        while True:
            await asyncio.sleep(LOOK)
            self._drain()
            if isinstance(self.directory, RunDirectory):
                await self._change(nodes, lives, self.directory)

    async def _change(self, nodes: Nodes, lives: asyncio.TaskGroup, run: RunDirectory) -> None:
        """Takes in experts' nodes that are added, once they serve, and lets go of those that leave."""
        for index, part in enumerate(parts_of(run)):
            if index == len(self.parts):
                nodes.admit(part.node, None if self._port is None else self._port + index)
                self.parts.append(part)
                if part.script:
                    self._newcomers.add(index)
                    lives.create_task(self._keep(nodes, index, part))
            elif self.parts[index].script and not part.script:
                await self._let_go(nodes, run, index)
        for index in self._newcomers & self._serving:
            await asyncio.to_thread(adopt, run, self.parts[index].node)
            self._newcomers.remove(index)
            nodes.pin(self._settled)
            self._journal.record("joined", other=index)

    @property
    def _settled(self) -> list[Part]:
        """What clients may ask for."""
        return [Part(part.node) if index in self._newcomers else part for index, part in enumerate(self.parts)]

    async def _let_go(self, nodes: Nodes, run: RunDirectory, index: int) -> None:
        """Nobody is told of it any more; the node ends by itself when its clients have gone."""
        part = self.parts[index]
        self.parts[index] = Part(part.node)
        self._newcomers.discard(index)
        nodes.pin(self._settled)
        if all(other.name != part.name for other in self.parts):
            await asyncio.to_thread(forget, run, part.name)
        self._journal.record("left", other=index)

    def _turn_away(self, index: int, problem: str) -> None:
        """A newcomer that cannot serve: the cluster goes on as it was."""
        assert isinstance(self.directory, RunDirectory), "others have no newcomers"
        node = self.parts[index].node
        leave(self.directory, node)
        self.parts[index] = Part(node)
        self._newcomers.remove(index)
        self._journal.record("left", other=index, problem=problem)

    def _drain(self) -> None:
        for event in self._tail.poll():
            self._observe(event)
            if event["event"] == "serving":
                self._serving.add(event["peer"])
            if event["event"] == "revoked":
                self._revoked.add(event["peer"])
            if event["event"] == "failed" and event["user"] and event["peer"] is not None:
                self._failed[event["peer"]] = event["problem"]


def parts_of(cluster: AnyDirectory) -> list[Part]:
    """What each node serves, by index. Raises UserError where there is nothing to serve."""
    return _replicas(cluster) if isinstance(cluster, ServingDirectory) else _experts(cluster)


def _replicas(cluster: ServingDirectory) -> list[Part]:
    if not (cluster.path / FILE).exists():
        problem = "its stages are not there yet; go on with it: decentral up"
        raise UserError(f"{cluster.path}: {problem} {cluster.recipe_file} --dir {cluster.path}")
    pinned, names = {part.name: part for part in Anchors.load(cluster.path / FILE).parts}, cluster.recipe.parts
    if set(names) - set(pinned):
        raise UserError(f"{cluster.path / FILE}: parts: there is no {min(set(names) - set(pinned))}")
    parts = [(replica.node, pinned[names[replica.stage]]) for replica in cluster.recipe.nodes]
    return [Part(node, "stage.py", part.name, part.digest) for node, part in parts]


def _experts(run: RunDirectory) -> list[Part]:
    if run.recipe.algorithm not in SERVED:
        raise UserError(f"{run.path}: peers of {run.recipe.algorithm!r} have nothing to serve once they have trained")
    parts = [_expert(run, index, f"expert-{index}") for index in range(run.recipe.peers - 1)]
    if guests := _guests(run):
        router = Part(peer_name(run.recipe.peers - 1))  # the clients have it
        return [*parts, router, *guests]
    return parts


def _expert(run: RunDirectory, index: int, name: str) -> Part:
    node = peer_name(index)
    if has_left(run, node):
        return Part(node)
    file = run.nodes / node / EXPERT / DIGEST
    if not file.is_file():
        raise UserError(f"{file}: is not there: this run did not come to its end; go on with it by --resume")
    return Part(node, "expert.py", name, file.read_text().strip())


def _guests(run: RunDirectory) -> list[Part]:
    """Nodes after the run's own, by index."""
    found: list[Part] = []
    while (file := run.nodes / peer_name(index := run.recipe.peers + len(found)) / PART).is_file():
        found.append(_expert(run, index, file.read_text().strip()))
    return found
