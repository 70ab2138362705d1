"""Nodes as processes of this machine: who they are, where they listen, how they get in, and how they are started.

The launcher holds no model and imports no torch. It makes identities, reserves ports, lets every node enrol with the
cluster's authority, and has a fork server start the programs of `nodes/`. When it ends, for whatever reason, its fork
server ends every child.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from decentral import locate
from decentral.algorithms.catalogue import SERVED
from decentral.algorithms.presence import Member
from decentral.errors import DecentralError, UserError
from decentral.launch.changes import router_digest
from decentral.launch.cluster import Cluster
from decentral.launch.observing.endpoint import At
from decentral.launch.sealing import known_as
from decentral.run.directory import AnyDirectory
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import FILE, Anchor, Anchors, Revoked
from decentral.wire import enrolment
from decentral.wire.authority import Authority, Vouch
from decentral.wire.notice import Notice

HOST = "127.0.0.1"
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_ARENA_MAX": "1",
}
"""glibc keeps what a node frees, for all its threads: gradients of tens of megabytes are otherwise paged in anew at
every step, and messages at every arrival."""
STOPPING = 8.0
"""Seconds that nodes get to end by themselves."""
PRELOADING = 120.0
"""Seconds that the fork server gets to import torch on a slow machine."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one node serves: its name, the program that serves it, the part's name and digest (hexadecimal).

    Without a program it serves nothing, and is not started.
    """

    node: str
    script: str = ""
    name: str = ""
    digest: str = ""


class ForkServer:
    """Our end of `decentral.launch.forkserver`: starts scripts in forked processes and learns when they end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._starting: deque[asyncio.Future[int]] = deque()
        self._endings: dict[int, asyncio.Future[int]] = {}
        self._problem: DecentralError | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, log: Path, preloaded: Sequence[str] = ()) -> AsyncIterator[ForkServer]:
        """`preloaded`: modules that all nodes need beside the usual ones.

        Raises DecentralError with the end of its log if it cannot start.
        """
        environment = {**KEEP_MEMORY, **os.environ, "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "decentral.launch.forkserver",
                *preloaded,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which ends the nodes in order
            )
        server = cls(process)
        listening = asyncio.create_task(server._listen(log))
        try:
            yield server
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(STOPPING):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            listening.cancel()

    async def _listen(self, log: Path) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            reply = json.loads(line)
            if "pid" in reply:
                self._endings[reply["pid"]] = asyncio.get_running_loop().create_future()
                settle(self._starting.popleft(), reply["pid"])
            elif "exited" in reply:
                settle(self._endings[reply["exited"]], reply["code"])
        self._problem = DecentralError(f"the fork server ended; the end of its log ({log}):\n{read_end(log)}")
        for ending in (*self._starting, *self._endings.values()):
            if not ending.done():
                ending.set_exception(self._problem)

    def _ask(self, request: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")

    async def fork(self, argv: list[str], log: Path) -> asyncio.Future[int]:
        """Starts a node; the future is its exit code, negative for a signal."""
        if self._problem is not None:
            raise self._problem
        self._ask({"fork": argv, "log": str(log)})
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting.append(started)
        try:
            async with asyncio.timeout(PRELOADING):
                return self._endings[await started]
        except TimeoutError:
            raise DecentralError(f"the fork server did not start {argv[0]} within {PRELOADING:.0f} s") from None


class Nodes:
    """The nodes of one run directory, by index. Made by `open_nodes`."""

    def __init__(
        self,
        directory: AnyDirectory,
        cluster: Cluster,
        authority: Authority,
        forks: ForkServer,
        *,
        held: ExitStack,
        metrics: At | None = None,
    ) -> None:
        """`held`: keeps the ports of nodes that are admitted later. `metrics`: of the launcher; nodes have the next."""
        self._members, self._directory, self._forks = list(cluster.members), directory, forks
        self._authority, self._address = authority, cluster.authority
        self._cluster, self._held, self._metrics = cluster, held, metrics
        cluster.save(directory.path)

    def admit(self, name: str, port: int | None) -> None:
        """Another node, after all that there are, at that port if nobody has it."""
        try:
            taken = reserve_ports(1, port)
        except UserError:
            taken = reserve_ports(1, None)
        self._members.append(_member(self._directory, len(self._members), name, self._held.enter_context(taken[0])))
        self._cluster = replace(self._cluster, members=tuple(self._members))
        self._cluster.save(self._directory.path)

    def pin(self, parts: Sequence[Part]) -> None:
        """Writes down who takes part and what each node serves; `parts` by index."""
        pin(self._directory, self._authority, self._members, parts)

    def invite(self, folder: Path) -> None:
        """Whoever reads that folder may get a certificate, once."""
        enrolment.invite(self._authority, self._address, folder)

    async def start(self, index: int, script: str, *arguments: str) -> asyncio.Future[int]:
        """Starts a program of `nodes/` as one node; the future is its exit code, negative for a signal."""
        name = self._members[index].name
        self.invite(self._directory.node(name))
        argv = [str(locate.folder("nodes") / script), "--dir", str(self._directory.path), "--index", str(index)]
        if self._metrics is not None:
            argv += ["--metrics", self._metrics.of_node(index)]
        return await self._forks.fork([*argv, *arguments], self._directory.log_file(name))


def preloaded_for(recipe: Recipe | ServingRecipe) -> tuple[str, ...]:
    """What takes a node seconds to import, and the fork server once."""
    if isinstance(recipe, ServingRecipe):
        return ("decentral.serving.stages.model", "decentral.serving.stages.stage")
    return ("decentral.launch.publish", "sklearn.cluster") if recipe.algorithm in SERVED else ()


@contextlib.asynccontextmanager
async def open_nodes(
    directory: AnyDirectory,
    members: tuple[Member, ...],
    epoch: float,
    plugins: tuple[str, ...],
    parts: Sequence[Part] = (),
    *,
    vouch: Vouch | None = None,
    metrics: At | None = None,
) -> AsyncIterator[Nodes]:
    """A fork server and the cluster's authority, for as long as the body runs; writes down who takes part.

    `parts`: what each member serves, if they do. What was pinned of the model stays as it is. `vouch`: judges the
    machines of those who want in; None: nobody asks for that. `metrics`: where the launcher shows its own; the nodes
    then show theirs at the ports after it.
    """
    authority = Authority.open(directory.authority)
    pin(directory, authority, members, parts)
    async with (
        ForkServer.open(directory.log_file("launcher"), preloaded_for(directory.recipe)) as forks,
        # Until the last node has ended: they renew their certificates.
        authority.serve(f"{HOST}:0", vouch=vouch) as address,
    ):
        with ExitStack() as held:
            cluster = Cluster(members, epoch, plugins, address)
            yield Nodes(directory, cluster, authority, forks, held=held, metrics=metrics)


def pin(directory: AnyDirectory, authority: Authority, members: Sequence[Member], parts: Sequence[Part]) -> None:
    """Writes the trust file. Its epoch is another one if what experts' clients choose from was another before."""
    trust = directory.path / FILE
    served = [(part.name, part.digest) for part in parts] or [("", "")] * len(members)
    peers = tuple(Anchor(one.name, one.id, one.address, *part) for one, part in zip(members, served, strict=True))
    before = Anchors.load(trust) if trust.exists() else Anchors(authority.pem, ())
    revoked = revoked_by(authority.register.notice)
    now = replace(before, authority=authority.pem, peers=peers, router=router_digest(directory.path), revoked=revoked)
    if not before.parts and _choice(before) and _choice(now) != _choice(before):
        now = replace(now, epoch=before.epoch + 1)
    now.save(trust)


def revoked_by(notice: Notice | None) -> tuple[Revoked, ...]:
    """What a client has to know of a notice, as it stands in the trust file."""
    rulings = () if notice is None else notice.rulings
    return tuple(Revoked(each.peer, each.revoked, each.reason) for each in rulings if each.revoked)


def _choice(anchors: Anchors) -> set[tuple[str, str]]:
    served = {(peer.part, peer.digest) for peer in anchors.peers if peer.part}
    return served | {("router", anchors.router)} if served else set()


@contextlib.contextmanager
def introduced(directory: AnyDirectory, names: Sequence[str], port: int | None) -> Iterator[tuple[Member, ...]]:
    """Members with identities, made where there are none yet, and with ports that are held while the body runs."""
    with ExitStack() as held:
        ports = [held.enter_context(taken) for taken in reserve_ports(len(names), port)]
        pairs = enumerate(zip(names, ports, strict=True))
        yield tuple(_member(directory, index, name, taken) for index, (name, taken) in pairs)


def _member(directory: AnyDirectory, index: int, name: str, taken: socket.socket) -> Member:
    return Member(index, name, known_as(directory.node(name)), f"{HOST}:{taken.getsockname()[1]}")


def settle(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)


def read_end(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def reserve_ports(count: int, first: int | None, host: str = HOST) -> list[socket.socket]:
    """Ports of an address of this machine, held by sockets that do not listen, until nodes take them (SO_REUSEPORT).

    `first` asks for that port and those after it. Raises UserError naming the port that is busy.
    """
    held: list[socket.socket] = []
    try:
        for offset in range(count):
            port = first + offset if first is not None else 0
            if port:
                with socket.socket() as probe:  # without SO_REUSEPORT: fails where anybody else is
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port))
            taken = socket.socket()
            held.append(taken)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind((host, port))
    except (OSError, OverflowError) as error:
        for taken in held:
            taken.close()
        raise UserError(f"port {port} of {host} cannot be taken ({error}); choose another with --port") from error
    return held
