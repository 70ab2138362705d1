"""Workers of the simulator's pool as actors of a Ray cluster: where peers of a simulated run train on many machines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from decentral.errors import DecentralError
from decentral.launch.nodes import STOPPING
from decentral.launch.pool.host import Host
from decentral.launch.pool.remote import Way
from decentral.launch.ray import freight, lodging
from decentral.launch.ray.actor import Ship, unload
from decentral.launch.ray.engine import connected
from decentral.launch.ray.options import RayOptions
from decentral.launch.ray.parcel import with_root
from decentral.launch.ray.placement import room
from decentral.run.recipe import Recipe

STARTING = 600.0
"""Seconds that workers get to import torch, and Ray to prepare what they need for it."""
LIVES = 3
"""How often we try, on average, to have a worker placed before its machine dies."""


class HostActor:
    """One worker, on the machine that Ray has placed it on. Made by Ray; one method is called at a time."""

    def __init__(self) -> None:
        self._host, self._held = Host(), contextlib.ExitStack()

    def lacks(self, recipe: Recipe) -> bool:
        """Whether the recipe's dataset is not on this machine. Answered once the actor has been placed."""
        return not freight.is_here(recipe)

    def unload(self, ship: Ship) -> Path:
        """Where the dataset is from now on. Raises DecentralError."""
        return unload(ship)

    def take(self, plugins: Mapping[str, bytes]) -> list[str]:
        """Where the plugins are from now on, by the content of their files."""
        room = self._held.enter_context(lodging.room("host"))
        for name, content in plugins.items():
            (room / name).write_bytes(content)
        return [str(room / name) for name in plugins]

    def answer(self, question: bytes) -> bytes:
        """See `Host.answer`."""
        return self._host.answer(question)

    def move_out(self) -> None:
        """Leaves nothing on this machine but what nodes share."""
        self._held.close()


class Actor:
    """The way to one of them."""

    def __init__(self, number: int, actor: Any, shipped: Callable[[], Ship]) -> None:
        self._number, self._actor, self._shipped = number, actor, shipped

    def prepared(self, recipe: Recipe, plugins: Sequence[Path]) -> tuple[Recipe, Sequence[str]]:
        """Brings the machine what it lacks; the recipe and the plugins as it has them. Raises DecentralError."""
        if self._ask("lacks", recipe) and freight.is_here(recipe):
            recipe = with_root(recipe, self._ask("unload", self._shipped()))
        brought = {plugin.name: plugin.read_bytes() for plugin in plugins}
        return recipe, self._ask("take", brought) if brought else []

    def ask(self, question: bytes) -> bytes:
        """Raises DecentralError where the worker, or its machine, has ended."""
        reply: bytes = self._ask("answer", question)
        return reply

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayActorError as error:
            raise DecentralError(
                f"worker {self._number} of the simulator has ended, and with it the models of its peers; go on from "
                f"the last checkpoints with --resume\n{error}"
            ) from None


@contextlib.contextmanager
def actors(recipe: Recipe, options: RayOptions, count: int) -> Iterator[Sequence[Way]]:
    """`count` workers, spread over a cluster, for as long as the body runs. Blocking.

    Raises UserError where the cluster cannot be used, or has no room for them.
    """
    with connected(recipe, options):
        demand = options.demand(recipe)
        group, made = placement_group([demand] * count, strategy="SPREAD"), dict[int, Any]()
        kind = ray.remote(HostActor)

        def make(number: int) -> Any:
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
            made[number] = kind.options(
                num_cpus=demand["CPU"], num_gpus=demand.get("GPU", 0), scheduling_strategy=place, max_restarts=0
            ).remote()
            return made[number].lacks.remote(recipe)

        try:
            asyncio.run(room(group, demand, count, f"--workers {count}", "workers"))
            _start(make, count)
            shipped = cache(lambda: freight.load(recipe, ray.put))
            yield [Actor(number, actor, shipped) for number, actor in made.items()]
            ray.wait([actor.move_out.remote() for actor in made.values()], num_returns=count, timeout=STOPPING)
        finally:
            for actor in made.values():
                ray.kill(actor)
            remove_placement_group(group)


def _start(make: Callable[[int], Any], count: int) -> None:
    """Until all answer; who was to be where a machine has just died is made anew. Raises DecentralError."""
    waiting = {make(number): number for number in range(count)}
    ends, lives = time.monotonic() + STARTING, LIVES * count
    while waiting:
        for answer in ray.wait([*waiting], timeout=max(ends - time.monotonic(), 0.0))[0]:
            number = waiting.pop(answer)
            try:
                ray.get(answer)
            except RayActorError as error:
                lives -= 1
                if lives <= 0:
                    raise DecentralError(f"worker {number} of the simulator could not be started: {error}") from None
                waiting[make(number)] = number
        if waiting and time.monotonic() > ends:
            raise DecentralError(f"{len(waiting)} of {count} workers did not start within {STARTING:.0f} s")
