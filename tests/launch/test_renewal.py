"""Certificates of seconds instead of days: renewed in time, by whoever answers, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from decentral.errors import Refusal, Refused, Unreachable
from decentral.launch import renewal
from decentral.launch.engine import Options, execute
from decentral.launch.renewal import Renewal
from decentral.run.journal import Event, Journal, read
from decentral.run.recipe import load_recipe
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.enrolment import credentials_for, invite
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.messages import Model, Ping

LIFE = 5.0
SHORT = timedelta(seconds=LIFE)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "FIRST_PAUSE", 0.1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority")


class Node:
    """One peer that is let in with a short certificate and renews it."""

    def __init__(self, folder: Path, address: Callable[[], str]) -> None:
        folder.mkdir()
        self.folder, self.address, self.identity = folder, address, Identity.generate()

    @contextlib.asynccontextmanager
    async def up(self, authority: Authority) -> AsyncIterator[GrpcTransport]:
        invite(authority, self.address(), self.folder)
        self.first = await credentials_for(self.identity, self.folder)
        options: dict[str, Any] = {"folder": self.folder, "authority": self.address}
        with Journal(self.folder / "events.jsonl", 0, time.monotonic) as journal:
            async with (
                GrpcTransport.serve("127.0.0.1:0", self.identity, self.first) as transport,
                Renewal(transport, self.identity, self.first, journal=journal, **options).running(),
            ):
                yield transport

    @property
    def events(self) -> list[str]:
        return [event["event"] for event in read(self.folder / "events.jsonl")]

    async def sees(self, event: str) -> None:
        for _ in range(1000):
            if event in self.events:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"no {event} among {self.events}")


@pytest.mark.slow
async def test_peers_talk_on_beyond_the_life_of_their_first_certificates(authority: Authority, tmp_path: Path) -> None:
    async with authority.serve("127.0.0.1:0", validity=SHORT) as address:
        alice, bob = (Node(tmp_path / name, lambda: address) for name in ("alice", "bob"))
        async with alice.up(authority) as sender, bob.up(authority) as receiver:
            sender.introduce(receiver.id, receiver.address)
            inbox = receiver.inbox(Ping, Model)
            until = max(alice.first.expires, bob.first.expires) + 0.5
            while time.time() < until:
                await sender.send(receiver.id, Ping(1))
                await sender.send(receiver.id, Model(1, {"weight": torch.ones(1000)}))
                assert {(await anext(inbox)).sender for _ in range(2)} == {alice.identity.id}
                await asyncio.sleep(0.05)
    for node in (alice, bob):
        assert set(node.events) == {"certified", "renewed"}
        kept = Credentials.load(node.folder)
        assert kept.peer == node.identity.id and kept.expires > node.first.expires


async def test_an_authority_that_was_away_is_asked_again_where_it_is_then(authority: Authority, tmp_path: Path) -> None:
    places: list[str] = []
    node = Node(tmp_path / "node", lambda: places[-1])
    async with contextlib.AsyncExitStack() as stack:
        async with authority.serve("127.0.0.1:0", validity=SHORT) as address:
            places.append(address)
            await stack.enter_async_context(node.up(authority))
        await node.sees("unrenewed")
        assert time.time() < node.first.expires
        places.append(await stack.enter_async_context(authority.serve("127.0.0.1:0", validity=SHORT)))
        await node.sees("renewed")
    assert Credentials.load(node.folder).expires > node.first.expires


async def test_a_certificate_that_nobody_renews_is_warned_about_and_then_refused(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "URGENT", renewal.DUE[1])  # a busy machine may be late by as long as is left after it
    async with contextlib.AsyncExitStack() as stack:
        async with authority.serve("127.0.0.1:0", validity=SHORT) as address:
            alone, other = (Node(tmp_path / name, lambda: address) for name in ("alone", "other"))
            sender = await stack.enter_async_context(alone.up(authority))
        async with authority.serve("127.0.0.1:0") as lasting:
            other.address = lambda: lasting
            receiver = await stack.enter_async_context(other.up(authority))
        sender.introduce(receiver.id, receiver.address)
        await sender.send(receiver.id, Ping(1))
        await alone.sees("expired")
        with pytest.raises((Refused, Unreachable)) as refused:
            await sender.send(receiver.id, Ping(2))
    assert not isinstance(refused.value, Refused) or refused.value.reason is Refusal.EXPIRED
    assert "renewed" not in alone.events and alone.events.count("unrenewed") >= 2
    said = [record.message for record in caplog.records]
    assert sum("could not be renewed" in text for text in said) == 1, said
    assert "has expired" in said[-1]


async def test_a_lasting_certificate_is_left_alone(authority: Authority, tmp_path: Path) -> None:
    async with authority.serve("127.0.0.1:0") as address:
        node = Node(tmp_path / "node", lambda: address)
        async with node.up(authority):
            await asyncio.sleep(0.2)
    assert node.events == ["certified"] and Credentials.load(node.folder) == node.first


@pytest.mark.slow
def test_a_running_cluster_renews_its_certificates_and_loses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Authority.serve.__wrapped__.__kwdefaults__, "validity", timedelta(seconds=15))
    recipe = load_recipe("dimat-digits", ("peers=3", "rounds=100000", "model={name: mlp, hidden: [16]}"))
    renewed: set[int] = set()

    def watch(event: Event) -> None:
        if event["event"] == "renewed":
            renewed.add(event["peer"])
        elif len(renewed) == 3 and event["event"] == "round":
            os.kill(os.getpid(), signal.SIGTERM)  # as `decentral down` does

    with pytest.raises(KeyboardInterrupt):
        execute(recipe, "local", Options(out=tmp_path / "run", observe=watch))
    events = read(tmp_path / "run" / "events.jsonl")
    assert renewed == {0, 1, 2}
    assert not {"lost", "crashed", "failed", "expired", "refused"} & {event["event"] for event in events}
