"""Real processes, real keys, mutual TLS on loopback: crashes, returns and interruptions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from decentral import locate
from decentral.errors import UserError
from decentral.launch.cluster import is_running
from decentral.launch.engine import Options, execute
from decentral.run.journal import Tail, read
from decentral.run.recipe import load_recipe

SMALL = ("rounds=4", "peers=3", "model={name: mlp, hidden: [16]}")
SLOW_ROUNDS = ("training.epochs=30", "deadlines.probe=0.3")
ENDLESS = "rounds=100000"
"""Until it is told to end, however long this test has to wait for a processor."""


def accuracies(summary: dict) -> list[float]:
    return summary["accuracy"]["per_peer"]


def checkpoints(run: Path) -> list[bytes]:
    """Parameters of every peer: the tensors' bytes, without the metadata, in which clocks differ."""
    from safetensors.torch import load_file, save

    return [save(load_file(file)) for file in sorted((run / "checkpoints").glob("peer-*.safetensors"))]


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=dimat",),
        ("algorithm=dpsgd",),
        ("algorithm=fedavg",),
        ("algorithm=fedavg", "exchange.compression={name: top-k, share: 0.1}", "averaging.outer=nesterov"),
        ("algorithm=fedavg", "fedavg.clients=2"),
        pytest.param(("algorithm=sgp", "topology=star"), marks=pytest.mark.slow),
        pytest.param(("algorithm=gossip",), marks=pytest.mark.slow),
        pytest.param(("algorithm=dpsgd", "exchange.compression=int8"), marks=pytest.mark.slow),
        pytest.param(("algorithm=dpsgd", "exchange.compression=top-k"), marks=pytest.mark.slow),
        pytest.param(("algorithm=epidemic", "epidemic.fanout=2"), marks=pytest.mark.slow),
        pytest.param(("algorithm=gradient-tracking",), marks=pytest.mark.slow),
        pytest.param(("algorithm=dpsgd", "training.steps=5", "averaging.batchnorm=reestimate"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_processes_and_the_simulator_end_with_the_same_parameters(tmp_path, overrides):
    recipe = load_recipe("dimat-digits", (*SMALL, *overrides))
    local, summary = execute(recipe, "local", Options(out=tmp_path / "local"))
    simulated, expected = execute(recipe, "sim", Options(out=tmp_path / "sim"))
    assert accuracies(summary) == accuracies(expected)
    assert checkpoints(local.path) == checkpoints(simulated.path)
    assert summary["bytes"]["model"] == expected["bytes"]["model"] > 0


@pytest.mark.slow
def test_split_learning_ends_alike_in_processes_in_the_simulator_and_in_one_piece(tmp_path):
    recipe = load_recipe("split-digits", ["rounds=4"])
    local, summary = execute(recipe, "local", Options(out=tmp_path / "local"))
    simulated, expected = execute(recipe, "sim", Options(out=tmp_path / "sim"))
    whole = load_recipe("split-digits", ["rounds=4", "algorithm=isolated", "peers=1", "learner=classifier"])
    alone, result = execute(whole, "sim", Options(out=tmp_path / "whole"))
    assert accuracies(summary) == accuracies(expected) == [*accuracies(result), None]
    assert checkpoints(local.path) == checkpoints(simulated.path)
    assert merged(local.path) == merged(alone.path)


def merged(run: Path) -> bytes:
    """The parameters of all peers as those of one network."""
    from safetensors.torch import load_file, save

    files = (run / "checkpoints").glob("peer-*.safetensors")
    return save({name: tensor for file in files for name, tensor in load_file(file).items()})


class Launched:
    """`decentral run` in a process of its own."""

    def __init__(self, out: Path, *arguments: str, recipe: str = "dimat-digits") -> None:
        self.out = out
        command = [sys.executable, "-P", "-m", "decentral", "run", recipe, "--out", str(out), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._tail = Tail(out)
        self.events: list[dict] = []

    def wait_for(self, event: str, seconds: float = 60.0, **fields: object) -> dict:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for found in self._tail.poll():
                self.events.append(found)
                if found["event"] == event and all(found.get(key) == value for key, value in fields.items()):
                    return found
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        raise AssertionError(f"no {event} within {seconds} s")

    def pid_of(self, peer: int) -> int:
        """The process that has the peer's lock open, as the kernel knows it."""
        lock = self.out / "nodes" / f"peer-{peer}" / "lock"
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if link.readlink() == lock:
                    return int(link.parts[2])
        raise AssertionError(f"peer {peer} is not running")

    @contextlib.contextmanager
    def halted(self, *peers: int) -> Iterator[None]:
        """Their rounds do not go on meanwhile."""
        processes = [self.pid_of(peer) for peer in peers]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def end(self, seconds: float = 90.0) -> dict:
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors
        return json.loads((self.out / "summary.json").read_text())

    def nodes_running(self) -> list[str]:
        return [node.name for node in (self.out / "nodes").glob("peer-*") if is_running(node)]


def wait_until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not what() and time.monotonic() < ends:
        time.sleep(0.05)
    assert what()


def again(run: Launched, peer: int) -> list[str]:
    """The command with which somebody starts a peer by hand."""
    return [sys.executable, "-P", str(locate.folder("nodes") / "peer.py"), "--dir", str(run.out), "--index", str(peer)]


def overrides(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.mark.slow
def test_a_killed_peer_is_named_as_crashed_and_as_rejoined_when_it_is_started_again(tmp_path):
    run = Launched(tmp_path / "run", *overrides(*SMALL, *SLOW_ROUNDS, "rounds=10"))
    run.wait_for("round", peer=1, round=2)
    os.kill(run.pid_of(1), signal.SIGKILL)
    run.wait_for("crashed", other=1)
    run.wait_for("lost", peer=0)
    with run.halted(0, 2):  # while it imports what it needs
        returning = subprocess.Popen(again(run, 1), stderr=subprocess.PIPE, text=True)
        wait_until(lambda: "peer-1" in run.nodes_running())
    _, errors = returning.communicate(timeout=90)
    assert returning.returncode == 0, errors
    summary = run.end()
    assert summary["crashed"] == summary["rejoined"] == ["peer-1"]
    assert summary["rounds"] == 10
    journal = read(run.out / "nodes" / "peer-1" / "events.jsonl")
    assert [event["rejoined"] for event in journal if event["event"] == "started"] == [False, True]
    received = [event for event in read(run.out / "nodes" / "peer-0" / "events.jsonl") if event["event"] == "exchanged"]
    assert 1 in received[-1]["received"] and any(1 in event["missing"] for event in received)


@pytest.mark.slow
def test_drawn_samples_survive_the_death_of_five_of_twenty_peers_and_of_the_aggregator(tmp_path):
    recipe = load_recipe("modest-digits", ("rounds=300",))
    _, undisturbed = execute(recipe, "sim", Options(out=tmp_path / "sim"))
    run = Launched(tmp_path / "run", *overrides("rounds=300"), recipe="modest-digits")
    aggregator = run.wait_for("merged", round=15)["peer"]
    victims = [aggregator, *(peer for peer in (0, 5, 9, 13, 17) if peer != aggregator)][:5]
    for process in [run.pid_of(peer) for peer in victims]:
        os.kill(process, signal.SIGKILL)
    back = [subprocess.Popen(again(run, peer), stdout=subprocess.DEVNULL) for peer in victims[:2]]
    summary = run.end(300.0)
    assert [process.wait(30) for process in back] == [0, 0]
    assert summary["rounds"] == 300
    assert sorted(summary["crashed"]) == sorted(f"peer-{peer}" for peer in victims)
    assert sorted(summary["rejoined"]) == sorted(f"peer-{peer}" for peer in victims[:2])
    assert summary["accuracy"]["mean"] == pytest.approx(undisturbed["accuracy"]["mean"], abs=0.01)
    assert len({accuracy for accuracy in accuracies(summary) if accuracy is not None}) == 1


@pytest.mark.slow
def test_a_killed_peer_stays_away_and_the_others_finish(tmp_path):
    run = Launched(tmp_path / "run", *overrides(*SMALL, *SLOW_ROUNDS, "training.epochs=60"))
    run.wait_for("round", peer=2, round=1)
    os.kill(run.pid_of(2), signal.SIGKILL)
    summary = run.end()
    assert summary["crashed"] == ["peer-2"] and summary["rejoined"] == []
    assert summary["rounds"] == 4


@pytest.mark.slow
def test_the_launcher_restarts_a_crashed_peer_when_asked_to(tmp_path):
    run = Launched(tmp_path / "run", "--restart", "1", *overrides(*SMALL, *SLOW_ROUNDS, "rounds=16"))
    run.wait_for("round", peer=0, round=1)
    os.kill(run.pid_of(0), signal.SIGKILL)
    summary = run.end()
    assert summary["crashed"] == summary["rejoined"] == ["peer-0"]


@pytest.mark.slow
def test_a_killed_launcher_takes_its_peers_along_and_the_run_can_be_resumed(tmp_path):
    """To the same end as a run that nobody interrupted."""
    settings = (*SMALL, *SLOW_ROUNDS, "rounds=6")
    run = Launched(tmp_path / "run", *overrides(*settings))
    run.wait_for("round", peer=0, round=2)
    run.process.kill()
    run.process.communicate()
    wait_until(lambda: not run.nodes_running())
    resumed = Launched(tmp_path / "run", "--resume", *overrides(*settings)).end()
    _, whole = execute(load_recipe("dimat-digits", settings), "sim", Options(out=tmp_path / "whole"))
    assert resumed["rounds"] == whole["rounds"] == 6
    assert accuracies(resumed) == accuracies(whole)
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "whole")


def test_ctrl_c_ends_every_child_and_keeps_what_was_done(tmp_path):
    run = Launched(tmp_path / "run", *overrides(*SMALL, ENDLESS))
    run.wait_for("round", peer=0, round=1)
    run.process.send_signal(signal.SIGINT)
    _, errors = run.process.communicate(timeout=90)
    assert run.process.returncode == 130
    assert "Traceback" not in errors and "--resume" in errors
    assert not run.nodes_running()
    assert json.loads((run.out / "summary.json").read_text())["rounds"] >= 1


@pytest.mark.slow
def test_a_peer_is_not_started_twice(tmp_path):
    run = Launched(tmp_path / "run", *overrides(*SMALL, ENDLESS))
    try:
        run.wait_for("started", peer=1)
        with run.halted(0, 1, 2):
            second = subprocess.run(again(run, 1), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert "running already" in second.stderr and "Traceback" not in second.stderr
    finally:
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=90)


def test_what_a_peer_cannot_use_ends_the_run_with_its_words(tmp_path):
    recipe = load_recipe("dimat-digits", (*SMALL, "data.name=cifar10", f"data.root={tmp_path / 'nothing'}"))
    with pytest.raises(UserError, match="cifar-10-batches-py"):
        execute(recipe, "local", Options(out=tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("peer", [0, 1])
def test_split_learning_goes_on_when_one_of_the_two_was_killed(tmp_path, peer: int):
    undisturbed, expected = execute(load_recipe("split-digits"), "local", Options(out=tmp_path / "undisturbed"))
    run = Launched(tmp_path / "run", *overrides("deadlines.probe=0.3"), "--restart", "1", recipe="split-digits")
    run.wait_for("round", peer=0, round=2)
    os.kill(run.pid_of(peer), signal.SIGKILL)
    summary = run.end()
    assert summary["rejoined"] == [f"peer-{peer}"]
    assert accuracies(summary) == accuracies(expected)
    assert checkpoints(tmp_path / "run") == checkpoints(undisturbed.path)
