"""Health over mutual TLS: who answers is well, and only who it is said to be counts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from decentral.algorithms.presence import Member
from decentral.errors import DecentralError
from decentral.launch import health
from decentral.launch.apart import settle
from decentral.launch.cluster import Cluster
from decentral.launch.health import check
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe
from decentral.wire.certificate import Credentials
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import IDENTITY, Identity


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    recipe = load_recipe("dimat-digits", ["peers=2"])
    settle(recipe, tmp_path / "run", ("127.0.0.2:7000", "127.0.0.3:7000")).close()
    return RunDirectory.open(tmp_path / "run")


def listening(run: RunDirectory, name: str, address: str):
    folder = run.node(name)
    return GrpcTransport.serve(address, Identity.load(folder / IDENTITY), Credentials.load(folder))


def at(run: RunDirectory, index: int, address: str) -> Member:
    return replace(Cluster.load(run.path).members[index], address=address)


async def test_a_node_that_answers_is_well(run):
    async with listening(run, "peer-0", "127.0.0.2:0") as transport:
        await check(run.path, at(run, 0, transport.address))


async def test_it_may_be_asked_elsewhere_than_at_its_address(run):
    async with listening(run, "peer-0", "0.0.0.0:0") as transport:
        port = transport.address.rpartition(":")[2]
        await check(run.path, at(run, 0, f"nowhere.invalid:{port}"), "127.0.0.1")


async def test_where_nobody_listens_nobody_is_well(run):
    async with listening(run, "peer-0", "127.0.0.2:0") as transport:
        address = transport.address
    with pytest.raises(DecentralError):
        await check(run.path, at(run, 0, address), deadline=2.0)


async def test_another_node_in_its_place_does_not_count(run):
    async with listening(run, "peer-1", "127.0.0.2:0") as transport:
        with pytest.raises(DecentralError):
            await check(run.path, at(run, 0, transport.address), deadline=2.0)


def test_as_a_command_it_says_why_in_a_line(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["health", str(run.path), "--index", "9"])
    assert health.main() == 1
    assert "nodes 0 to 1" in capsys.readouterr().err
