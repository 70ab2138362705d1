"""A run's nodes wherever Ray has them: the launcher's end of their actors.

A node whose machine is gone is found again where Ray has placed its actor anew. It is handed what it had told until
then, and tells the others itself where it is now: the signed record in its join carries its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError, RuntimeEnvSetupError
from ray.util import get_node_ip_address
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from decentral.algorithms.presence import Member
from decentral.errors import DecentralError, UserError
from decentral.launch.apart import certify, names_of
from decentral.launch.cluster import Cluster
from decentral.launch.local import Homeless
from decentral.launch.nodes import STOPPING, pin
from decentral.launch.ray import freight
from decentral.launch.ray.actor import NodeActor, Place, Ship
from decentral.launch.ray.mirror import Known, News, take
from decentral.launch.ray.parcel import pack
from decentral.launch.ray.placement import Resources, reserved
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal
from decentral.wire.addresses import joined_address
from decentral.wire.authority import Authority
from decentral.wire.identity import IDENTITY, Identity

_LOG = logging.getLogger(__name__)

CALLS, CALL = 16, 60.0
"""Calls that an actor answers at once; seconds for each."""
STARTING = 600.0
"""Seconds for an actor to be there, its runtime environment among them."""
MOVING_IN = 1800.0
"""Seconds for a node to have its files, a dataset among them, and to be ready to start."""
MOVING_OUT = 5.0
"""Seconds for an actor to remove a node's files."""
SILENT = 60.0
"""Seconds without a word, after which an actor is taken for lost though Ray has not noticed."""
MOVING = 600.0
"""Seconds that a node whose machine is gone waits for another one."""
ATTEMPTS, PAUSE = 3, 0.5
"""How often a call is made whose way breaks, before the actor is taken for lost; seconds between them."""


@dataclass(slots=True)
class Lodger:
    """One node: its actor, and what is known of it. `past`: the life of the actor that was lost."""

    name: str
    index: int
    actor: Any
    place: Place | None = None
    past: str = ""
    known: Known = field(default_factory=Known)

    def lose(self) -> None:
        """Nothing is expected of where it was any more."""
        if self.place is not None:
            self.past, self.place = self.place.life, None


class RayNodes:
    """The nodes of one run. Made by `open_nodes`."""

    def __init__(
        self,
        run: RunDirectory,
        epoch: float,
        plugins: Sequence[Path],
        *,
        journal: Journal,
        issuer: Authority,
        address: str,
    ) -> None:
        """`issuer` is the cluster's authority, at that `address`."""
        self._run, self._plugins, self._journal, self._issuer = run, plugins, journal, issuer
        self._cluster = Cluster((), epoch, tuple(plugin.name for plugin in plugins), address)
        self._lodgers: list[Lodger] = []
        self._following: list[asyncio.Task[int | None]] = []
        self._ship: Ship | None = None
        self._shipping = asyncio.Lock()

    @property
    def members(self) -> tuple[Member, ...]:
        return self._cluster.members

    async def settle(self, group: PlacementGroup, names: Sequence[str], demand: Resources) -> None:
        """Gives every node a place, and all of them what they need. Raises DecentralError."""
        kind = ray.remote(NodeActor)
        for index, name in enumerate(names):
            actor = kind.options(
                num_cpus=demand["CPU"],
                num_gpus=demand.get("GPU", 0.0),
                max_restarts=-1,  # how often is the launcher's to say
                max_concurrency=CALLS,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
            ).remote(name)
            self._lodgers.append(Lodger(name, index, actor))
        await _all(self._locate(lodger, STARTING) for lodger in self._lodgers)
        self._write_down()
        await _all(self._move_in(lodger) for lodger in self._lodgers)

    async def start(self, index: int, script: str, *arguments: str) -> Awaitable[int | None]:
        """See `local.Starting`."""
        lodger, ends = self._lodgers[index], time.monotonic() + MOVING
        while True:
            try:
                place = lodger.place or await self._rehouse(lodger)
                if await _answer(lodger.actor.start.remote(place.life, script, arguments), CALL):
                    break
                problem = "it was started anew meanwhile"
            except (RayActorError, TimeoutError) as error:
                problem = str(error)
            if time.monotonic() > ends:
                raise Homeless(f"{lodger.name}: could not be started again ({problem})")
            lodger.lose()
        following = asyncio.create_task(self._follow(lodger))
        self._following.append(following)
        return asyncio.shield(following)  # who waits may be told to end before the node has

    async def end(self) -> None:
        """Ends every node, and takes in what it says at its end."""
        ends = time.monotonic() + STOPPING
        there = [lodger.actor for lodger in self._lodgers if lodger.place is not None]
        await _all(_in_time(actor.end.remote(), STOPPING) for actor in there)
        if self._following:
            _, left = await asyncio.wait(self._following, timeout=max(ends - time.monotonic(), PAUSE))
            for following in left:
                following.cancel()
        await _all(_in_time(actor.move_out.remote(), MOVING_OUT) for actor in there)
        for lodger in self._lodgers:
            ray.kill(lodger.actor)

    async def _locate(self, lodger: Lodger, deadline: float) -> Place:
        """Asks an actor where it is, until it is there. Raises Homeless, and UserError."""
        ends, problem = time.monotonic() + deadline, "it did not answer"
        while time.monotonic() < ends:
            try:
                place: Place = await _answer(lodger.actor.place.remote(self._run.recipe), deadline)
            except RuntimeEnvSetupError as error:
                raise UserError(f"--runtime-env: {error}") from error
            except (RayActorError, TimeoutError) as error:
                problem = str(error)
            else:
                if place.life != lodger.past:
                    lodger.place = place
                    self._journal.record("placed", other=lodger.index, machine=place.machine, address=place.address)
                    return place
                ray.kill(lodger.actor, no_restart=False)  # we had given it up
            await asyncio.sleep(PAUSE)
        raise Homeless(f"{lodger.name}: Ray has not placed it within {deadline:.0f} s: {problem}")

    def _write_down(self) -> None:
        """Who takes part, and where; of those on the way, where they were."""
        members = list(self._cluster.members)
        for lodger in self._lodgers:
            if lodger.place is not None:
                identity = Identity.open(self._run.node(lodger.name) / IDENTITY).id
                members[lodger.index : lodger.index + 1] = [
                    Member(lodger.index, lodger.name, identity, lodger.place.address)
                ]
        self._cluster = replace(self._cluster, members=tuple(members))
        self._cluster.save(self._run.path)
        pin(self._run, self._issuer, members, ())

    async def _move_in(self, lodger: Lodger) -> None:
        """Hands over what a node needs, and what it has left elsewhere."""
        place, moved = lodger.place, bool(lodger.past)
        assert place is not None
        certify(self._issuer, self._run.node(lodger.name))
        parcel = await asyncio.to_thread(pack, self._run, lodger.name, lodger.index, self._plugins, moved=moved)
        ship = await self._load() if place.lacks else None
        lodger.known = Known(journal=parcel.journal)
        await _answer(lodger.actor.move_in.remote(parcel, lodger.index, ship), MOVING_IN)

    async def _load(self) -> Ship | None:
        """The dataset in Ray's keeping, put there once; None where this machine does not have it either."""
        async with self._shipping:
            if self._ship is None and await asyncio.to_thread(freight.is_here, self._run.recipe):
                self._ship = await asyncio.to_thread(freight.load, self._run.recipe, ray.put)
        return self._ship

    async def _rehouse(self, lodger: Lodger) -> Place:
        """Where Ray has placed a node anew; the others' machines write it down."""
        place = await self._locate(lodger, MOVING)
        self._write_down()
        await self._move_in(lodger)
        others = [other for other in self._lodgers if other is not lodger and other.place is not None]
        await _all(_in_time(other.actor.meet.remote(self._cluster), CALL) for other in others)
        return place

    async def _follow(self, lodger: Lodger) -> int | None:
        """Writes down what a node tells, until it has ended; None: its machine is gone."""
        place, broken = lodger.place, 0
        assert place is not None
        while True:
            try:
                news: News = await _answer(lodger.actor.news.remote(lodger.known), SILENT)
            except (RayActorError, TimeoutError) as error:
                broken += 1
                if broken < ATTEMPTS and isinstance(error, RayActorError):
                    await asyncio.sleep(PAUSE)
                    continue
                _LOG.info("%s is lost: %s", lodger.name, error)
                break
            if news.life != place.life:
                break
            broken = 0
            await asyncio.to_thread(take, self._run, lodger.name, lodger.known, news)
            if news.code is not None:
                return news.code
        lodger.lose()
        return None


@contextlib.asynccontextmanager
async def open_nodes(
    run: RunDirectory, epoch: float, plugins: Sequence[Path], journal: Journal, demand: Resources
) -> AsyncIterator[RayNodes]:
    """The nodes of a run on a cluster that this process is connected to, for as long as the body runs.

    Raises UserError where the cluster has no room for them, and DecentralError.
    """
    names = names_of(run.recipe)
    issuer = await asyncio.to_thread(Authority.open, run.authority)
    async with (
        issuer.serve(joined_address(get_node_ip_address(), 0)) as address,
        reserved(demand, len(names)) as group,
    ):
        nodes = RayNodes(run, epoch, plugins, journal=journal, issuer=issuer, address=address)
        try:
            await nodes.settle(group, names, demand)
            yield nodes
        finally:
            await nodes.end()


async def _all(calls: Iterable[Coroutine[Any, Any, object]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(call)


async def _answer(reference: Awaitable[Any], deadline: float) -> Any:
    """What a call to an actor returns. Raises DecentralError as the actor did, RayActorError and TimeoutError."""
    try:
        async with asyncio.timeout(deadline):
            return await reference
    except RayTaskError as error:
        if isinstance(error.cause, DecentralError):
            raise error.cause from None
        raise DecentralError(f"on Ray: {error}") from error


async def _in_time(reference: Awaitable[Any], deadline: float) -> None:
    """Waits for a call whose actor may be gone, which changes nothing."""
    try:
        await _answer(reference, deadline)
    except (RayActorError, TimeoutError) as error:
        _LOG.debug("an actor did not answer: %s", error)
