"""A standing cluster of nodes that answer clients, until the launcher is told to end.

Each node is a peer of a finished run and serves the part of the model that it has, or it was added to such a run
(`guests`), or it is a replica of a stage. A node that crashes is started again a few times, each time after a longer
pause; its clients go on with the others meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

from decentral.algorithms.catalogue import SERVED
from decentral.errors import DecentralError, UserError, leading
from decentral.launch.local import last_time
from decentral.launch.nodes import Nodes, Part, introduced, open_nodes
from decentral.run.directory import AnyDirectory, RunDirectory, ServingDirectory, peer_name
from decentral.run.journal import Journal, Observer, Tail
from decentral.trust.anchors import FILE, Anchors

EXPERT, DIGEST = "expert", "digest"
"""A node's folder of the expert that it has trained, and the file there with the digest of that model."""
PART = "part"
"""The file in the folder of a node that was added, with the name of what it serves."""
POLL = 0.05
"""Seconds between looks at the journals."""
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
        observe: Observer = lambda event: None,
    ) -> None:
        self.directory, self.parts = directory, parts
        self._plugins, self._restarts, self._port, self._observe = plugins, restarts, port, observe
        self._tail = Tail(directory.path)
        self._tail.poll()  # what the run wrote is known
        self._failed: dict[int, str] = {}

    async def run(self) -> None:
        """Serves until it is cancelled or SIGTERM comes.

        Raises UserError if a node could not use what it was given, and DecentralError when none is left.
        """
        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        epoch = time.time() - last_time(self.directory.path)
        names = [part.node for part in self.parts]
        with (
            introduced(self.directory, names, self._port) as members,
            Journal(self.directory.journal_file("launcher"), None, lambda: time.time() - epoch) as self._journal,
        ):
            async with open_nodes(self.directory, members, epoch, self._plugins, self.parts) as nodes:
                nodes.invite(self.directory.client)
                try:
                    async with asyncio.TaskGroup() as tasks:
                        following = tasks.create_task(self._follow())
                        async with asyncio.TaskGroup() as lives:
                            for index, part in enumerate(self.parts):
                                if part.script:
                                    lives.create_task(self._keep(nodes, index, part))
                        following.cancel()
                except BaseExceptionGroup as group:
                    raise leading(group) or group from None
        raise DecentralError(f"no node is left; their logs are under {self.directory.nodes}")

    async def _keep(self, nodes: Nodes, index: int, part: Part) -> None:
        """One node from its first start to its last end."""
        crashes = 0
        while crashes <= self._restarts:
            if crashes:
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (crashes - 1), LONGEST_PAUSE))
            began = time.monotonic()
            code = await (await nodes.start(index, part.script))
            self._drain()
            if index in self._failed:
                raise UserError(f"{part.node}: {self._failed[index]}")
            self._journal.record("crashed", other=index, code=code)
            crashes = 1 if time.monotonic() - began > SETTLED else crashes + 1

    async def _follow(self) -> None:
        while True:
            self._drain()
            await asyncio.sleep(POLL)

    def _drain(self) -> None:
        for event in self._tail.poll():
            self._observe(event)
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
