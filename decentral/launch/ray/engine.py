"""A run on a Ray cluster, from the connection to the last peer's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import ray

from decentral.algorithms.presence import Member
from decentral.errors import UserError
from decentral.launch.background import RESTARTS
from decentral.launch.local import LocalRun, Starting
from decentral.launch.ray.nodes import open_nodes
from decentral.launch.ray.options import AUTO, RayOptions
from decentral.launch.ray.placement import Resources
from decentral.run.directory import RunDirectory
from decentral.run.journal import Observer
from decentral.run.recipe import Recipe
from decentral.wire.addresses import split_address

KNOCKING = 5.0
"""Seconds for a cluster's head to answer."""


class RayRun(LocalRun):
    """The launcher's view of a run whose peers live where Ray has placed them; `demand`: what each asks for there."""

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        *,
        demand: Resources,
        plugins: tuple[str, ...] = (),
        resumed: int | None = None,
        restarts: int = RESTARTS,
        observe: Observer = lambda event: None,
    ) -> None:
        super().__init__(recipe, directory, plugins=plugins, resumed=resumed, restarts=restarts, observe=observe)
        self._demand = demand

    @contextlib.asynccontextmanager
    async def _nodes(self, epoch: float) -> AsyncIterator[tuple[Starting, tuple[Member, ...]]]:
        plugins = [Path(plugin) for plugin in self._plugins]
        async with open_nodes(self.directory, epoch, plugins, self._journal, self._demand) as nodes:
            yield nodes, nodes.members


@contextlib.contextmanager
def connected(recipe: Recipe, options: RayOptions) -> Iterator[None]:
    """This process is a driver of a Ray cluster for as long as the body runs. Blocking. Raises UserError.

    A cluster of this machine alone, where none is named, has room for all peers: they share its cores as processes do.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = options.address or os.environ.get("RAY_ADDRESS")
    alone = {} if address else {"num_cpus": max(os.cpu_count() or 1, recipe.peers * recipe.threads)}
    where = "a Ray cluster of this machine" if address is None else f"the Ray cluster at {address}"
    # Ray reports what happens to machines, until it is shut down; results are for the output.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if address not in (None, AUTO):
                knock(address)
            ray.init(
                address=address or "local",
                runtime_env=options.environment() or None,
                log_to_driver=False,  # what nodes write comes to the run directory
                logging_level=logging.WARNING,
                include_dashboard=None if address else False,
                **alone,
            )
        except Exception as error:  # where a machine is too slow, Ray raises that very class
            raise UserError(f"--on ray: {where} cannot be used: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()


def knock(address: str) -> None:
    """Raises OSError if nobody listens at `host:port`, which Ray itself finds out after minutes."""
    with socket.create_connection(split_address(address), KNOCKING):
        return


def run_on_ray(
    recipe: Recipe,
    directory: RunDirectory,
    options: RayOptions,
    *,
    plugins: tuple[str, ...],
    resumed: int | None,
    restarts: int,
    observe: Observer,
) -> None:
    """A whole run. Blocking. `restarts`: of each peer. Raises UserError and DecentralError."""
    with connected(recipe, options):
        run = RayRun(
            recipe,
            directory,
            demand=options.demand(recipe),
            plugins=plugins,
            resumed=resumed,
            restarts=restarts,
            observe=observe,
        )
        asyncio.run(run.run())
