"""The life of a standing cluster: up, status, logs, down, and on again from where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from decentral.cli import up
from decentral.launch import background
from decentral.launch.engine import Options

LONG = ("--set", "rounds=500", "--set", "peers=2", "--set", "model={name: mlp, hidden: [8]}")


def decentral(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_a_cluster_goes_up_is_looked_at_and_goes_down(tmp_path):
    up = decentral("up", "dimat-digits", "--dir", "here", *LONG, "--json", folder=tmp_path)
    assert up.returncode == 0, up.stderr
    try:
        status = json.loads(decentral("status", "here", "--json", folder=tmp_path).stdout)
        assert status["running"] and status["launcher"] == json.loads(up.stdout)["launcher"]
        assert set(status["peers"]) == {"peer-0", "peer-1"}
        assert "peer-1" in decentral("status", "here", folder=tmp_path).stdout
        again = decentral("up", "dimat-digits", "--dir", "here", *LONG, folder=tmp_path)
        assert again.returncode == 2 and "already holds a run" in again.stderr
    finally:
        down = decentral("down", "here", folder=tmp_path)
    assert down.returncode == 0 and "--resume" in down.stdout
    ended = json.loads(decentral("status", "here", "--json", folder=tmp_path).stdout)
    assert not ended["running"] and ended["launcher"] is None
    assert json.loads((tmp_path / "here" / "summary.json").read_text())["rounds"] < 500
    assert set(json.loads(decentral("logs", "here", "--json", folder=tmp_path).stdout)) >= {"peer-0", "peer-1"}


@pytest.mark.parametrize("command", ["status", "logs", "down", "report"])
def test_a_folder_without_a_run_is_named(tmp_path, command):
    done = decentral(command, "nowhere", folder=tmp_path)
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_cluster_that_cannot_start_says_why_and_leaves_no_process(tmp_path):
    missing = ("--set", "data.name=cifar10", "--set", f"data.root={tmp_path}/none")
    done = decentral("up", "dimat-digits", "--dir", "here", *LONG, *missing, folder=tmp_path)
    assert done.returncode == 2 and "cifar-10-batches-py" in done.stderr
    assert not json.loads(decentral("status", "here", "--json", folder=tmp_path).stdout)["running"]


@pytest.mark.slow
def test_a_node_without_a_log_is_answered_with_those_that_have_one(tmp_path):
    decentral("run", "dimat-digits", *LONG, "--set", "rounds=1", "--on", "local", "--out", "here", folder=tmp_path)
    done = decentral("logs", "here", "peer-9", folder=tmp_path)
    assert done.returncode == 2 and "peer-" in done.stderr
    assert decentral("down", "here", folder=tmp_path).returncode == 2


@pytest.mark.parametrize("said", [None, 0, 5])
def test_how_often_a_node_that_serves_is_started_again_is_passed_on(monkeypatch, said):
    started: list[int] = []
    monkeypatch.setattr(up, "say_json", lambda about: started.append(about["launcher"]))
    asked: dict[str, object] = {}

    def start(cluster, **options):
        asked.update(options)
        return SimpleNamespace(pid=1)

    monkeypatch.setattr(background, "start_serving", start)
    cluster = SimpleNamespace(path=Path("here"), recipe=SimpleNamespace(nodes=()))
    up.serve(cluster, Options(Path("here"), restarts=said), True)
    assert (asked["restarts"], started) == (said, [1])
