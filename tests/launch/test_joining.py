"""Where a recipe asks for it, only machines that run what is pinned may join a training run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from decentral import locate
from decentral.attestation.attester import RUNTIME, Quoted
from decentral.attestation.host.measuring import CODE, Measurer
from decentral.attestation.host.processes import startable
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.registers import Event, EventLog
from decentral.attestation.session.joining import Joining
from decentral.errors import Malformed, UserError
from decentral.launch.attesting import MANIFEST
from decentral.launch.engine import Options, execute
from decentral.launch.joining import show_for, vouch_for
from decentral.launch.sealing import known_as
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe, load_recipe
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.authority import Authority
from decentral.wire.identity import Identity

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
NONCE, KEY = bytes(32), b"a public key"


def recipe(attestation: str = "required") -> Recipe:
    return load_recipe("dimat-digits", [f"attestation={attestation}", "peers=2", "rounds=1"])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.create(tmp_path / "run", recipe(), "local") as made:
        yield made


class Measured:
    """The machine of a run directory, in this process."""

    def __init__(self, directory: RunDirectory, *others: Event) -> None:
        self.simulation = Simulation.kept(directory.attestation)
        found = Measurer(directory.path).measure(startable())
        self.image, self.measured = found.image, EventLog((*found.events, *others))

    async def log(self) -> EventLog:
        return self.measured

    async def quote(self, report_data: bytes) -> Quoted:
        quote = self.simulation.quote(report_data, self.image, self.measured)
        return Quoted(
            self.simulation.technology, quote, self.measured, self.simulation.collateral(int(time.time())), b""
        )


async def test_a_machine_that_runs_what_is_pinned_is_let_in_and_another_is_told_why_not(
    directory: RunDirectory,
) -> None:
    vouch = await asyncio.to_thread(vouch_for, directory)
    assert vouch is not None
    run = directory.recipe.hash
    await vouch(NONCE, KEY, ALICE.id, await Joining(Measured(directory), ALICE.id, run)(NONCE, KEY))
    edited = Measured(directory, Event.of(RUNTIME, CODE, b"edited"))
    for evidence, peer, why in (
        (await Joining(edited, ALICE.id, run)(NONCE, KEY), ALICE.id, "its code has changed while it ran"),
        (await Joining(Measured(directory), ALICE.id, "another")(NONCE, KEY), ALICE.id, "binding"),
        (await Joining(Measured(directory), ALICE.id, run)(NONCE, KEY), BOB.id, "binding"),
        (b"nothing", ALICE.id, "not canonical"),
    ):
        with pytest.raises(Malformed, match=f"your machine does not count: .*{why}"):
            await vouch(NONCE, KEY, peer, evidence)


async def test_a_simulated_machine_joins_no_run_of_real_ones(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(vouch_for, directory)
    monkeypatch.setattr("decentral.launch.joining.simulates", lambda attesting: False)
    vouch = await asyncio.to_thread(vouch_for, directory)
    assert vouch is not None
    with pytest.raises(Malformed, match="it is simulated, and this run is not"):
        await vouch(
            NONCE, KEY, ALICE.id, await Joining(Measured(directory), ALICE.id, directory.recipe.hash)(NONCE, KEY)
        )


def test_what_is_pinned_stays_pinned_and_its_files_are_kept(directory: RunDirectory) -> None:
    vouch_for(directory)
    before = Anchors.load(directory.path / FILE)
    assert before.machines is not None
    assert (directory.attestation / MANIFEST).is_file()
    vouch_for(directory)
    assert Anchors.load(directory.path / FILE) == before
    assert before.authority == Authority.load(directory.authority).pem


def test_nobody_asks_and_nobody_shows_where_the_recipe_does_not_say_so(tmp_path: Path) -> None:
    for mode in ("none", "offered"):
        with RunDirectory.create(tmp_path / mode, recipe(mode), "local") as directory:
            assert vouch_for(directory) is None
            assert show_for(directory, ALICE.id) is None


def test_the_simulator_has_no_machines_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attestation: evidence"):
        execute(recipe(), "sim", Options(out=tmp_path / "run"))


def test_who_is_to_join_is_no_part_of_what_is_computed() -> None:
    assert recipe("required").hash == recipe("none").hash


@pytest.mark.slow
def test_peers_that_show_what_they_run_train_and_one_with_an_edited_file_is_refused_by_name(tmp_path: Path) -> None:
    directory, summary = execute(recipe(), "local", Options(out=tmp_path / "run"))
    assert summary["rounds"] == 1
    assert [event["event"] for event in events(directory, "launcher") if event["event"] == "quoting"]
    copy = tmp_path / "copy"
    shutil.copytree(locate.PACKAGE, copy / "decentral", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(locate.folder("nodes"), copy / "nodes")
    with (copy / "decentral" / "core" / "mixing.py").open("a") as file:
        file.write("# edited\n")
    said = asyncio.run(joining(directory, copy))
    assert "identity.key.sealed: another measurement" in said  # it cannot even say who it was
    said = asyncio.run(joining(directory, copy, anew=True))
    assert "your machine does not count: measurement: its code is not the one that is allowed" in said


async def joining(directory: RunDirectory, copy: Path, anew: bool = False) -> str:
    """What a node says that is started by hand from another copy of the package, where evidence is asked for.

    `anew`: it is somebody else, whom the others expect.
    """
    from decentral.launch.cluster import Cluster
    from decentral.launch.quoting import quoting
    from decentral.run.journal import Journal
    from decentral.wire.enrolment import invite

    authority, vouch = Authority.open(directory.authority), await asyncio.to_thread(vouch_for, directory)
    folder = directory.node("peer-1")
    (folder / "tls.pem.sealed").unlink(missing_ok=True)
    if anew:
        (folder / "identity.key.sealed").unlink()
    with Journal(directory.journal_file("test"), None, time.monotonic) as journal:
        async with quoting(directory, journal) as listens, authority.serve("127.0.0.1:0", vouch=vouch) as address:
            await listens.wait()
            cluster = Cluster.load(directory.path)
            members = (cluster.members[0], replace(cluster.members[1], id=known_as(folder)))
            Cluster(members, cluster.epoch, cluster.plugins, address).save(directory.path)
            invite(authority, address, folder)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(copy / "nodes" / "peer.py"), "--dir", str(directory.path), "--index", "1",
                env={**os.environ, "PYTHONPATH": str(copy)}, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, said = await process.communicate()
    assert process.returncode != 0
    return said.decode()


def events(directory: RunDirectory, node: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in directory.journal_file(node).read_text().splitlines()]
