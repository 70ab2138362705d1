"""A standing cluster, of real processes: it answers, a node that is killed comes back, and all end together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decentral.errors import RunDirectoryError, Unreachable, UserError
from decentral.launch import serving
from decentral.launch.background import launcher_pid, start_serving, stop
from decentral.launch.changes import DIGEST
from decentral.launch.cluster import LOCK, is_running
from decentral.launch.serving import EXPERT, parts_of
from decentral.run.directory import RunDirectory, peer_name
from decentral.run.journal import Journal, Tail
from decentral.run.recipe import load_recipe
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.generation import Wish, generate
from tests.launch.experts import EXPERTS, small


def decentral(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def process_of(run: RunDirectory, name: str) -> int:
    """The process that has the node's lock open, as the kernel knows it."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == run.nodes / name / LOCK:
                return int(link.parts[2])
    raise AssertionError(f"{name} is not running")


def test_a_cluster_answers_survives_a_death_and_ends_whole(run):
    tail, wish = Tail(run.path), Wish(4, 3, "top-1", 2.0, (), 0)
    launcher = start_serving(run)
    try:
        first, second = (asyncio.run(generate(run.path, wish)) for _ in range(2))
        assert first.absent == {} and sum(first.evaluations.values()) == 4 * 3 * 2
        assert first.sent > 4 * 3 * 2 * 64 * 4
        assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]

        tail.poll()
        os.kill(process_of(run, "peer-1"), signal.SIGKILL)
        ends, seen = time.monotonic() + 60, []
        while time.monotonic() < ends and ("serving", 1) not in seen:
            seen += [(event["event"], event["peer"]) for event in tail.poll()]
            time.sleep(0.05)
        assert ("crashed", None) in seen and ("serving", 1) in seen
        made = decentral("generate", "run", "--num", "2", "--steps", "2", "--json", folder=run.path.parent)
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["absent"] == {}
        assert (run.path.parent / "grid.png").stat().st_size > 0

        with pytest.raises(RunDirectoryError, match="another launcher"):
            RunDirectory.resume(run.path, run.recipe)
    finally:
        stop(run)
        launcher.wait(20)
    assert launcher_pid(run) is None
    assert not any(is_running(run.nodes / peer_name(number)) for number in range(EXPERTS))
    with pytest.raises(Unreachable, match="is the cluster up"):
        asyncio.run(generate(run.path, wish))


def test_what_is_served_is_named_with_its_digest(run):
    parts = parts_of(run)
    assert [(part.node, part.name) for part in parts] == [("peer-0", "expert-0"), ("peer-1", "expert-1")]
    assert [part.digest for part in parts] == [digest_of(small(number)) for number in range(EXPERTS)]


def test_a_run_that_did_not_end_and_one_that_serves_nothing_are_refused(run, tmp_path):
    (run.nodes / "peer-1" / EXPERT / DIGEST).unlink()
    with pytest.raises(UserError, match="did not come to its end"):
        parts_of(run)
    with (
        RunDirectory.create(tmp_path / "other", load_recipe("dimat-digits"), "local") as other,
        pytest.raises(UserError, match="nothing to serve"),
    ):
        parts_of(other)


@pytest.mark.slow
def test_a_node_that_cannot_use_its_model_ends_the_cluster_with_its_words(run):
    (run.nodes / "peer-0" / EXPERT / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no expert"):
        start_serving(run)
    with pytest.raises(UserError, match="not running"):
        stop(run)


class Crashing:
    """Nodes that end at once; after `most` starts the test has seen enough."""

    def __init__(self, most: int) -> None:
        self.started, self._most = 0, most

    async def start(self, index: int, script: str) -> asyncio.Future[int]:
        self.started += 1
        if self.started > self._most:
            raise asyncio.CancelledError
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ended.set_result(1)
        return ended


@pytest.mark.parametrize(("settled", "starts"), [(1e9, 3), (-1.0, 21)])
async def test_only_crashes_soon_after_one_another_are_counted(run, monkeypatch, settled, starts):
    monkeypatch.setattr(serving, "SETTLED", settled)
    monkeypatch.setattr(serving, "FIRST_PAUSE", 0.0)
    nodes, launcher = Crashing(20), serving.ServingRun(run, parts_of(run), restarts=2)
    with (
        Journal(run.journal_file("launcher"), None, lambda: 0.0) as launcher._journal,
        contextlib.suppress(asyncio.CancelledError),
    ):
        await launcher._keep(nodes, 0, launcher.parts[0])
    assert nodes.started == starts
