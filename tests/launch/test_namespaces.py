"""Machines with addresses of their own, joined by one command each: latency, lost packets, a partition in mid-run.

The network is the test's own (`tests.launch.namespaces`): packets are late, lost, or cut off, really. Where namespaces
are not permitted, nothing here is measured, and that is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from decentral.launch.engine import Options, execute
from decentral.run.recipe import Recipe, load_recipe
from tests.launch import namespaces
from tests.launch.namespaces import Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LATENCY, LOSS, PARTITION = 0.05, 0.01, 60.0
SMALL = ("peers=3", "model={name: mlp, hidden: [32]}")
DIMAT, MODEST = ("dimat-digits", *SMALL), ("modest-digits", *SMALL, "sampling.size=2")
AWAY = 2
"""The machine, by its place among the three, that is cut off."""


@pytest.fixture
def network() -> Iterator[Network]:
    if reason := namespaces.unavailable():
        pytest.skip(f"not measured: {reason}")
    with Network.open(3) as opened:
        opened.latency, opened.loss = LATENCY, LOSS
        yield opened


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "decentral", *arguments]


def until(true, seconds: float = 600.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)


class Run:
    """A recipe on three machines; the first is the host's too."""

    def __init__(self, network: Network, folder: Path, recipe: str, *settings: str) -> None:
        self.network, self.folder = network, folder
        self.recipe = load_recipe(recipe, settings)
        first, options = network.machines[0], [part for setting in settings for part in ("--set", setting)]
        listening = ("--dir", "host", "--listen", f"{first.address}:6999")
        self.host = first.start(*command("host", recipe, *options, *listening), folder=folder, log="host.log")
        until(lambda: self.said("host").startswith("decentral join") and "\n" in self.said("host"))
        line = self.said("host").splitlines()[0].split()[1:]
        self.nodes = [
            machine.start(*command(*line, "--dir", f"node-{place}"), folder=folder, log=f"node-{place}.log")
            for place, machine in enumerate(network.machines)
        ]

    def said(self, log: str) -> str:
        return (self.folder / f"{log}.log").read_text()

    def events(self, place: int, *kinds: str) -> list[dict[str, Any]]:
        """What the node of a machine has written, of those kinds."""
        files = (self.folder / f"node-{place}").glob("nodes/*/events.jsonl")
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in map(json.loads, lines) if event["event"] in kinds]

    def round(self, place: int) -> int:
        return max((event["round"] for event in self.events(place, "round")), default=0)

    def cut_off(self, at: int, seconds: float) -> tuple[int, int]:
        """Parts one machine from the others for so long; the round that it was in before and afterwards."""
        until(lambda: self.round(AWAY) >= at)
        self.network.cut = {self.network.machines[AWAY].address}
        time.sleep(5.0)  # what was on its way
        before = self.round(AWAY)
        time.sleep(seconds - 5.0)
        after = self.round(AWAY)
        self.network.cut = set()
        return before, after

    def end(self) -> None:
        """All finish by themselves, every round that they had begun together is there, and nothing is damaged."""
        until(lambda: all(node.poll() is not None for node in (self.host, *self.nodes)))
        assert [node.returncode for node in (self.host, *self.nodes)] == [0] * 4, [
            self.said(log) for log in ("host", "node-0", "node-1", "node-2")
        ]
        for place in range(3):
            rounds = [event["round"] for event in self.events(place, "round")]
            assert rounds == sorted(rounds) and rounds[-1] == self.recipe.rounds
            # Of samples, one whose average nobody has heard of trains for its round again.
            assert self.recipe.draws or len(set(rounds)) == len(rounds)
            assert self.events(place, "finished") and not self.events(place, "failed", "rejected")

    def accuracies(self) -> list[float]:
        return [self.events(place, "evaluated")[-1]["accuracy"] for place in range(3)]

    def parameters(self) -> list[dict[str, list[float]]]:
        """By index in the plan, which is not that of the machines."""
        files = sorted(self.folder.glob("node-*/checkpoints/peer-?.safetensors"), key=lambda file: file.name)
        return [plain(file) for file in files]


def plain(file: Path) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in load_file(file).items()}


def undisturbed(recipe: Recipe, folder: Path) -> tuple[list[dict[str, list[float]]], float]:
    """The same run where nothing happens: its parameters, by peer, and its mean accuracy."""
    directory, summary = execute(recipe, "sim", Options(out=folder))
    files = sorted(directory.checkpoints.glob("peer-?.safetensors"))
    return [plain(file) for file in files], summary["accuracy"]["mean"]


def test_a_partition_that_deadlines_outlast_changes_nothing_at_all(network, tmp_path):
    """All wait for the one that is cut off, and end with the parameters, to the last bit, of an undisturbed run."""
    run = Run(network, tmp_path, *DIMAT, "rounds=24", "deadlines.call=100")
    run.cut_off(8, PARTITION)
    run.end()
    assert not any(run.events(place, "lost") for place in range(3))
    assert run.parameters() == undisturbed(run.recipe, tmp_path / "sim")[0]
    assert network.lost > 0


def test_one_that_is_cut_off_for_longer_waits_and_takes_part_again(network, tmp_path):
    run = Run(network, tmp_path, *DIMAT, "rounds=160")
    before, after = run.cut_off(20, PARTITION)
    assert after - before <= 1, "alone it would be through with all of them"
    run.end()
    for place in range(3):
        assert run.events(place, "lost") and run.events(place, "returned")
        assert not run.events(place, "exchanged")[-1]["missing"]
    assert run.events(AWAY, "cut_off") and not any(run.events(place, "cut_off") for place in (0, 1))
    assert sum(run.accuracies()) / 3 == pytest.approx(undisturbed(run.recipe, tmp_path / "sim")[1], abs=0.02)


def test_samples_go_on_without_one_that_is_cut_off_and_draw_it_again(network, tmp_path):
    run = Run(network, tmp_path, *MODEST, "rounds=200")  # as many again as go on without its images, and more
    run.cut_off(8, PARTITION)
    trained = len(run.events(AWAY, "trained"))
    run.end()
    assert run.events(AWAY, "cut_off") and len(run.events(AWAY, "trained")) > trained
    assert len(set(run.accuracies())) == 1, "one model for all"
    assert run.accuracies()[0] == pytest.approx(undisturbed(run.recipe, tmp_path / "sim")[1], abs=0.02)


def test_a_machine_behind_nat_is_told_so_and_takes_no_seat(network, tmp_path):
    first, second, third = network.machines
    host = first.start(
        *command("host", "dimat-digits", "--set", "peers=2", "--dir", "host", "--listen", f"{first.address}:6999"),
        folder=tmp_path,
        log="host.log",
    )
    until(lambda: "\n" in (tmp_path / "host.log").read_text())
    line = (tmp_path / "host.log").read_text().splitlines()[0].split()[1:]
    network.closed = {third.address}

    def refused(machine: namespaces.Machine, *arguments: str) -> str:
        asked = machine.inside(*command(*arguments, "--dir", "node"))
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    words = refused(third, *line)
    assert f"nothing answers at {third.address}:7000" in words and f"you came from {third.address}" in words
    assert "Behind NAT" in words and not (tmp_path / "host" / "seats.json").exists()
    words = refused(third, *line, "--advertise", second.address)  # where somebody else is, or nobody
    assert f"nobody listens at {second.address}:7000" in words and f"you came from {third.address}" in words
    assert "nothing answers" in refused(third, line[0], f"{second.address[:-1]}9:6999", *line[2:])
    network.closed = set()
    assert host.poll() is None
