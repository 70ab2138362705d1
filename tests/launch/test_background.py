"""A cluster in the background lives as long as its `with` block, and tells what came of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from decentral.errors import DecentralError, RunDirectoryError, UserError
from decentral.launch import background
from decentral.launch.background import LocalCluster, launcher_pid, stop
from decentral.run.directory import RunDirectory

SMALL = ("peers=2", "model={name: mlp, hidden: [8]}")


def test_a_cluster_that_runs_to_its_end_gives_its_summary(tmp_path):
    with LocalCluster("dimat-digits", overrides=(*SMALL, "rounds=2"), directory=tmp_path / "run") as cluster:
        run = RunDirectory.open(cluster.directory)
        summary = cluster.wait(60)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 2 and not run.in_use


@pytest.mark.slow
def test_leaving_the_block_ends_a_cluster_in_the_middle(tmp_path):
    with LocalCluster("dimat-digits", overrides=(*SMALL, "rounds=100000"), directory=tmp_path / "run") as cluster:
        run = RunDirectory.open(cluster.directory)
        assert launcher_pid(run) is not None
        with pytest.raises(DecentralError, match="did not end"):
            cluster.wait(0.2)
    assert launcher_pid(run) is None
    with pytest.raises(UserError, match="not running"):
        stop(run)


@pytest.mark.slow
def test_a_cluster_without_a_folder_leaves_nothing_behind():
    with LocalCluster("dimat-digits", overrides=(*SMALL, "rounds=1")) as cluster:
        cluster.wait(60)
        assert (cluster.directory / "summary.json").exists()
    assert not cluster.directory.exists()


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"mine\.txt"), LocalCluster("dimat-digits", directory=tmp_path):
        raise AssertionError("a cluster was started in somebody's folder")


def test_a_launcher_that_does_not_end_is_killed(monkeypatch, caplog):
    monkeypatch.setattr(background, "STOPPING", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        background._end(launcher)
        assert launcher.returncode == -signal.SIGKILL
    assert "was killed" in caplog.text
    background._end(launcher)  # it has ended


def test_a_node_is_started_again_as_often_as_was_said_and_else_as_is_usual():
    assert background._options((), 0, None, None) == ["--restart", "0", "--json"]
    assert background._options((), None, None, None) == ["--json"]
