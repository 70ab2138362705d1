"""Room for a run's nodes on a Ray cluster: one bundle of a placement group for each, spread over the machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from decentral.errors import UserError

_LOG = logging.getLogger(__name__)

PLACING, GROWING = 30.0, 1800.0
"""Seconds that we wait for room, and those that we do while machines are on their way."""
LOOK = 0.5
"""Seconds between looks."""
Resources = Mapping[str, float]


@contextlib.asynccontextmanager
async def reserved(demand: Resources, count: int) -> AsyncIterator[PlacementGroup]:
    """A placement group of `count` bundles, for as long as the body runs.

    Raises UserError that says what is missing.
    """
    group = placement_group([dict(demand)] * count, strategy="SPREAD")
    try:
        await room(group, demand, count)
        yield group
    finally:
        remove_placement_group(group)


async def room(
    group: PlacementGroup, demand: Resources, count: int, option: str = "--on ray", what: str = "peers"
) -> None:
    """Until a group has been placed. Raises UserError that says what is missing for what the person asked for."""
    began, said = time.monotonic(), False
    while not await asyncio.to_thread(group.wait, LOOK):
        waited = time.monotonic() - began
        if waited < PLACING:
            continue
        words = missing(demand, count, *await asyncio.to_thread(_machines), what)
        if waited > GROWING or not await asyncio.to_thread(_coming):
            raise UserError(f"{option}: {words}")
        if not said:
            said = True
            _LOG.warning("%s; waiting for machines that are on their way", words)


def missing(demand: Resources, count: int, total: Sequence[Resources], free: Resources, what: str = "peers") -> str:
    """What keeps `count` nodes of that `demand` from being placed. `total`: of each machine; `free`: on all of them.

    `what`: how the person calls them.
    """
    words: list[str] = []
    for kind, each in demand.items():
        offered = sum(machine.get(kind, 0.0) for machine in total)
        fitting = sum(int(machine.get(kind, 0.0) / each + 1e-9) for machine in total)
        if fitting < count:
            words.append(
                f"{count} {what} need {each:g} {kind} each, {count * each:g} together, on machines that have it; "
                f"the cluster has {offered:g} on {len(total)} machines, room for {fitting} {what}"
            )
        elif free.get(kind, 0.0) < count * each:
            words.append(
                f"{count} {what} need {count * each:g} {kind}; {free.get(kind, 0.0):g} of {offered:g} are free, "
                "others use the rest"
            )
    return "; ".join(words) or f"{count} {what} found no room, though there seems to be enough: others took it"


def _machines() -> tuple[list[Resources], Resources]:
    """What each machine that is alive has, and what is free on all of them."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]], ray.available_resources()


def _coming() -> bool:
    """Whether an autoscaler has machines on their way."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_launches or status.pending_nodes)
