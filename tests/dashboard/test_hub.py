"""What a source says reaches whoever waits; what it cannot say is shown and asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from decentral.dashboard import hub as module
from decentral.dashboard.hub import Hub
from decentral.dashboard.source import About
from decentral.errors import RunDirectoryError
from decentral.run.journal import Event

DEADLINE = 20.0


class Scripted:
    """Says what it is given."""

    def __init__(self, peers: int = 2) -> None:
        self.peers = peers
        self.fresh: list[Event] = []
        self.known: dict[str, Any] = {}
        self.broken: str | None = None
        self.closed = False
        self.kept: dict[str, bytes] = {}

    def about(self) -> About:
        return About(self.peers, {"recipe": "some", "rounds": 3}, edges=[(0, 1)])

    def poll(self) -> Sequence[Event]:
        if self.broken:
            raise RunDirectoryError(self.broken)
        fresh, self.fresh = self.fresh, []
        return fresh

    def facts(self) -> Mapping[str, Any]:
        return dict(self.known)

    def picture(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def close(self) -> None:
        self.closed = True


def phase(peer: int, round: int = 1) -> Event:
    return {"t": 1.0, "peer": peer, "event": "phase", "round": round, "phase": "train"}


@asynccontextmanager
async def following(source: Scripted) -> Any:
    hub = Hub(source)
    task = asyncio.create_task(hub.run())
    try:
        async with asyncio.timeout(DEADLINE):
            yield hub
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.01)
    monkeypatch.setattr(module, "FACTS", 0.01)


async def until(hub: Hub, true: Any) -> None:
    while not true():
        await hub.changed(hub.board.revision)


async def test_who_waits_is_woken_by_events_and_facts() -> None:
    source = Scripted()
    async with following(source) as hub:
        seen = hub.board.revision
        source.fresh = [phase(0), phase(1)]
        await hub.changed(seen)
        assert hub.board.since(seen)["peers"].keys() == {0, 1}
        source.known = {"running": True}
        await until(hub, lambda: "running" in hub.board)


async def test_a_long_history_is_folded_in_pieces() -> None:
    source = Scripted()
    source.fresh = [phase(0, round) for round in range(3 * module.AT_ONCE)]
    async with following(source) as hub:
        await until(hub, lambda: hub.board.events == 3 * module.AT_ONCE)


async def test_a_source_that_cannot_be_read_is_shown_and_asked_again() -> None:
    source = Scripted()
    source.broken = "a damaged line in the journal"
    async with following(source) as hub:
        await until(hub, lambda: "problem/poll" in hub.board)
        assert hub.board.since(0)["cells"]["problem/poll"] == source.broken
        source.broken, source.fresh = None, [phase(0)]
        await until(hub, lambda: hub.board.since(0)["cells"]["problem/poll"] == "")
        await until(hub, lambda: hub.board.events == 1)


async def test_who_waits_leaves_when_it_is_closed() -> None:
    async with following(Scripted()) as hub:
        waiting = asyncio.create_task(hub.changed(10**9))
        await asyncio.sleep(0)
        hub.close()
        await waiting
