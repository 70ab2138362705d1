"""A simulated processor is a process of the launcher's: it measures who asks, comes back, and ends with its owner."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from decentral.attestation.attester import Unattested
from decentral.attestation.host.quoting import ADDRESS, QuotingAttester
from decentral.attestation.host.simulation import FILE
from decentral.errors import UserError, leading
from decentral.launch.prepare import prepare
from decentral.launch.quoting import quoting
from decentral.run.directory import ServingDirectory
from decentral.run.journal import Journal
from tests.launch.attested import copied, recipe_in


async def shown(cluster: ServingDirectory, package: Path | None = None) -> dict[str, Any]:
    """What a program of ours finds of itself that is started from there; none other is measured."""
    asked = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "decentral", "attest", "show", str(cluster.path), "--json"),
        stdout=subprocess.PIPE,
        env=dict(os.environ) if package is None else {**os.environ, "PYTHONPATH": str(package)},
    )
    said, _ = await asked.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    (tmp_path / "made").mkdir()
    return prepare(recipe_in(tmp_path), tmp_path / "made" / "here")


@pytest.fixture
def told() -> asyncio.Queue[Mapping[str, Any]]:
    """The launcher's events."""
    return asyncio.Queue()


@pytest.fixture
def journal(cluster: ServingDirectory, told: asyncio.Queue[Mapping[str, Any]]) -> Journal:
    return Journal(cluster.journal_file("launcher"), None, time.monotonic, told.put_nowait)


async def test_it_answers_comes_back_when_it_is_killed_and_leaves_nothing(
    cluster: ServingDirectory, journal: Journal, told: asyncio.Queue[Mapping[str, Any]]
) -> None:
    with cluster.hold():
        await comes_back(cluster, journal, told)
    assert not (cluster.path / ADDRESS).exists()
    with pytest.raises(Unattested, match="does not answer"):
        await QuotingAttester(cluster.path).log()


async def comes_back(cluster: ServingDirectory, journal: Journal, told: asyncio.Queue[Mapping[str, Any]]) -> None:
    async with quoting(cluster, journal) as listens:
        await listens.wait()
        first = await shown(cluster)
        assert [name for _, name, _ in first["events"]] == ["code", "recipe", "policy", "model"]
        started = await told.get()
        assert (started["event"], started["simulated"]) == ("quoting", True)
        left = Path((cluster.path / ADDRESS).read_text()).parent
        os.kill(started["process"], signal.SIGKILL)
        async with asyncio.timeout(100):
            ended, again = await told.get(), await told.get()
        assert (ended["event"], ended["code"], again["event"]) == ("unquoted", -signal.SIGKILL, "quoting")
        assert (await shown(cluster))["events"] == first["events"], "what it knew before it does not need"
        place = Path((cluster.path / ADDRESS).read_text()).parent
        assert place.stat().st_mode & 0o777 == 0o700 and not left.exists()
    assert not place.exists()


async def test_what_it_cannot_use_ends_the_launcher_with_its_words(cluster: ServingDirectory, journal: Journal) -> None:
    (cluster.attestation / FILE).write_text("{}")
    with pytest.raises(BaseExceptionGroup) as refused:
        async with quoting(cluster, journal) as listens:
            await listens.wait()
    problem = leading(refused.value)
    assert isinstance(problem, UserError) and "simulated" in str(problem)


async def test_who_changes_a_file_of_the_package_shows_other_evidence(
    cluster: ServingDirectory, journal: Journal, tmp_path: Path
) -> None:
    """The copy is the same code until it is changed; the one that runs from it does not say so itself."""
    copy = copied(tmp_path / "copy")
    with cluster.hold():
        async with quoting(cluster, journal) as listens:
            await listens.wait()
            before = await shown(cluster, copy)
            assert before["as_pinned"] and before["simulated"]
            with (copy / "nodes" / "stage.py").open("a") as program:
                program.write("\n# and now the inputs are kept\n")
            after = await shown(cluster, copy)
    assert after["complaints"] == ["measurement: its code is not the one that is allowed"]
    assert [
        name for one, other in zip(before["events"], after["events"], strict=True) for name in [one[1]] if one != other
    ] == ["code"]
