"""`decentral node`: real peers, each a process with a folder and an address of its own, as two machines have them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from decentral.errors import DecentralError
from decentral.launch.alone import member_of
from decentral.launch.apart import APART, names_of, settle
from decentral.launch.cluster import Cluster
from decentral.launch.ending import TOLD
from decentral.launch.health import check
from decentral.run.recipe import load_recipe
from tests.launch.rendered import untrained

RECIPE = load_recipe("dimat-digits", ["peers=2", "rounds=2", "model={name: mlp, hidden: [8]}"])
HOSTS = ("127.0.0.2", "127.0.0.3")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "decentral", *arguments]


def told(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def free(*hosts: str) -> tuple[str, ...]:
    """An address of each host at which nobody listens."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in hosts]
        for host, one in zip(hosts, sockets, strict=True):
            one.bind((host, 0))
        return tuple(f"{host}:{one.getsockname()[1]}" for host, one in zip(hosts, sockets, strict=True))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    settle(RECIPE, tmp_path / "run", free(*HOSTS), apart=True).close()
    return tmp_path / "run"


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command("node", *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def well(path: Path, host: str | None = None) -> bool:
    try:
        asyncio.run(check(path, member_of(path, None), host, deadline=2.0))
    except DecentralError:
        return False
    return True


def finished(path: Path) -> bool:
    journals = list(path.glob("nodes/*/events.jsonl"))
    return any(json.loads(line)["event"] == "finished" for file in journals for line in file.read_text().splitlines())


def until(true, seconds: float = 90.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.slow
def test_peers_on_addresses_of_their_own_train_and_one_that_stays_is_well(run, tmp_path):
    """One listens where its address says, the other at all of its machine's addresses, from files that are mounted."""
    first, second = run / APART / "peer-0", tmp_path / "own"
    told_first = {"node": "peer-0", "index": 0, "address": Cluster.load(run).members[0].address}
    mounted = ("--from", str(run), "--keys", str(run / "nodes" / "peer-1"), "--listen", "0.0.0.0", "--stay")
    with running(str(first), "--json") as one, running(str(second), *mounted) as other:
        assert one.wait(100) == 0
        said = one.stdout.read()
        assert json.loads(said[: said.index("}") + 1]) == told_first
        until(lambda: finished(second))
        assert well(second, "127.0.0.1") and well(second) and not well(first)
        assert other.poll() is None
        other.send_signal(signal.SIGTERM)
        assert other.wait(30) == TOLD
    with running(str(second), *mounted) as again:
        until(lambda: well(second))
        assert (second / "nodes" / "peer-1" / "events.jsonl").read_text().count('"finished"') == 1
        again.send_signal(signal.SIGTERM)
        assert again.wait(30) == TOLD
    gathered = told("gather", str(run), str(first), str(second), "--json", folder=tmp_path)
    assert gathered.returncode == 0, gathered.stderr
    summary = json.loads(gathered.stdout)
    assert summary["rounds"] == 2 and summary["world"] == "hosts" and None not in summary["accuracy"]["per_peer"]


@pytest.mark.slow
def test_a_model_in_stages_on_addresses_of_their_own_answers_a_client(tmp_path):
    recipe, run = untrained(tmp_path), tmp_path / "run"
    settle(recipe, run, free("127.0.0.2", "127.0.0.3", "127.0.0.4"), apart=True).close()
    folders = [run / APART / name for name in names_of(recipe)]
    with contextlib.ExitStack() as nodes:
        for folder in folders:
            nodes.enter_context(running(str(folder)))
        until(lambda: all(map(well, folders)))
        asked = told("predict", str(run), "digits:7", "--json", folder=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["verdict"]


def test_what_it_cannot_be_is_said(run, tmp_path):
    for arguments, words in [
        ((str(run),), "say with --index"),
        ((str(run), "--index", "7"), "nodes 0 to 1"),
        ((str(run), "--index", "0", "--keys", str(run)), "--from FOLDER"),
        ((str(tmp_path / "nowhere"),), "holds no run"),
        (
            (str(tmp_path / "own"), "--from", str(run), "--keys", str(run / "nodes" / "peer-1"), "--index", "0"),
            "peer-1",
        ),
    ]:
        done = told("node", *arguments, folder=tmp_path)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, arguments
