"""A cluster in the background lives as long as its `with` block, and tells what came of it."""

from __future__ import annotations

import json

import pytest

from decentral.errors import DecentralError, RunDirectoryError, UserError
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
