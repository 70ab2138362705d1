"""One node of a run on the machine that Ray has placed it on: its folder, its process, and news of both.

The actor starts the same program of `nodes/` that every launcher starts, by a fork server of its own, and tells the
launcher what the program writes. When the actor ends, in whatever way, so does the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.util import get_node_ip_address

from decentral import locate
from decentral.errors import DecentralError
from decentral.launch.cluster import Cluster
from decentral.launch.nodes import ForkServer, preloaded_for, reserve_ports, settle
from decentral.launch.ray import freight, lodging
from decentral.launch.ray.gauges import Gauges
from decentral.launch.ray.mirror import Known, News, Teller
from decentral.launch.ray.parcel import Parcel, meet, unpack
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe
from decentral.wire.addresses import joined_address

_LOG = logging.getLogger("decentral")

LOOK = 1.0
"""Seconds between looks at what the node writes: each that finds something costs Ray a call, which takes from peers
that share the machine."""
PATIENCE = 10.0
"""Seconds after which the launcher hears that there is nothing new."""
TOLD = -15
"""The exit code of a node that was told to end and did not say how it did."""

Ship = freight.Freight["ray.ObjectRef[bytes]"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node lives: the actor's life, the address it is to listen at, Ray's name of the machine.

    `lacks`: whether the recipe's dataset is not there.
    """

    life: str
    address: str
    machine: str
    lacks: bool


class NodeActor:
    """Made by Ray; every method is called by the launcher, several at once."""

    def __init__(self, name: str) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        self._name, self._life = name, secrets.token_hex(8)
        self._held, self._process = contextlib.ExitStack(), contextlib.AsyncExitStack()
        self._port: socket.socket | None = None
        self._run: RunDirectory | None = None
        self._forks: ForkServer | None = None
        self._ending: asyncio.Future[int] | None = None
        self._index, self._told = 0, False
        self._gauges: Gauges | None = None
        self._teller: Teller | None = None

    async def place(self, recipe: Recipe) -> Place:
        """Where this actor is; it holds a port for its node from now on."""
        host = get_node_ip_address()
        if self._port is None:
            self._port = self._held.enter_context(reserve_ports(1, None, host)[0])
        machine = ray.get_runtime_context().get_node_id()
        lacks = not await asyncio.to_thread(freight.is_here, recipe)
        return Place(self._life, joined_address(host, self._port.getsockname()[1]), machine, lacks)

    async def move_in(self, parcel: Parcel, index: int, ship: Ship | None) -> None:
        """Makes the node's folder, and gets ready to start it. Raises DecentralError."""
        if self._run is not None:
            return
        self._index = index
        room = self._held.enter_context(lodging.room(self._name))
        data = None if ship is None else await asyncio.to_thread(unload, ship)
        run = await asyncio.to_thread(unpack, parcel, room / "run", data)
        log = run.node("launcher") / "log.txt"
        self._forks = await self._process.enter_async_context(ForkServer.open(log, preloaded_for(run.recipe)))
        self._gauges = Gauges(run.recipe.name, self._name)
        self._teller = Teller(run, self._name, self._life)
        self._run = run

    async def start(self, life: str, script: str, arguments: tuple[str, ...]) -> bool:
        """Starts the node, if this is still the life in which it has moved in. Raises DecentralError."""
        if life != self._life or self._run is None or self._forks is None:
            return False
        argv = [str(locate.folder("nodes") / script), "--dir", str(self._run.path), "--index", str(self._index)]
        self._ending = await self._forks.fork([*argv, *arguments], self._run.log_file(self._name))
        return True

    async def news(self, known: Known) -> News:
        """What is not known of the node yet, once there is something, or after a while that there is nothing."""
        ends = time.monotonic() + PATIENCE
        while self._teller is not None:
            over = self._ending is not None and self._ending.done()  # before we look: what it wrote last is told first
            news = News(self._life)
            if self._teller.due(known, ended=over):
                news = await asyncio.to_thread(self._teller.news, known, ended=over)
            if not news.empty:
                self._tell(news)
                return news
            if over:
                assert self._ending is not None
                if (problem := self._ending.exception()) is None:
                    return replace(news, code=self._ending.result())
                if self._told:
                    return replace(news, code=TOLD)
                _LOG.error("%s: %s", self._name, problem)
                os._exit(1)  # without its fork server it cannot start anything: Ray begins it anew
            if time.monotonic() > ends:
                return news
            await asyncio.sleep(LOOK)
        return News(self._life)

    def _tell(self, news: News) -> None:
        """To Ray's own logs and metrics."""
        for line in news.journal.splitlines():
            _LOG.info("%s", line.decode(errors="replace"))
            assert self._gauges is not None
            self._gauges.take(json.loads(line))

    async def meet(self, cluster: Cluster) -> None:
        """Another node lives elsewhere now. This one's hears it from that node; one that is started anew reads it."""
        if self._run is not None:
            await asyncio.to_thread(meet, self._run.path, cluster)

    async def end(self) -> None:
        """Ends the node, which may say goodbye; what it still says is news."""
        self._told = True
        await self._process.aclose()
        if self._ending is not None:
            settle(self._ending, TOLD)

    async def move_out(self) -> None:
        """Leaves nothing of the node on this machine but what nodes share."""
        self._run = self._teller = None
        self._held.close()


def unload(ship: Ship) -> Path:
    """A dataset that was put, on this machine. Blocking. Raises DecentralError."""
    try:
        return freight.unload(ship.digest, (ray.get(piece) for piece in ship.pieces), lodging.shared())
    except OSError as error:
        raise DecentralError(f"{lodging.shared()}: the dataset cannot be unpacked: {error}") from error
