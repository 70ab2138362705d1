"""Results from several machines: all of them come together, keys do not, and nothing is followed out of a folder."""

from __future__ import annotations

import json

import pytest

from decentral.errors import RunDirectoryError
from decentral.launch.apart import APART, settle
from decentral.launch.gathering import gather
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal
from decentral.run.recipe import load_recipe
from decentral.wire.identity import IDENTITY

HOSTS = ("127.0.0.2:7000", "127.0.0.3:7000")


@pytest.fixture
def run(tmp_path):
    """Its peers have run two rounds, an hour after the folder was made."""
    settle(load_recipe("dimat-digits", ["peers=2"]), tmp_path / "run", HOSTS, apart=True).close()
    run = RunDirectory.open(tmp_path / "run")
    counted = {"model": 10, "control": 1, "evidence": 0, "total": 11}
    for index in range(2):
        own = RunDirectory.open(run.path / APART / f"peer-{index}")
        times = iter([3600.0, 3601.0, 3602.0 + index, 3603.0])
        with Journal(own.journal_file(f"peer-{index}"), index, lambda times=times: next(times)) as journal:
            journal.record("started", round=0, resumed=False, rejoined=False)
            journal.record("evaluated", round=1, accuracy=0.5 + index / 4, loss=1.0, seconds=0.1)
            journal.record("round", round=2, bytes=counted)
        (own.checkpoints / f"peer-{index}").mkdir()
        (own.checkpoints / f"peer-{index}" / "2.safetensors").write_bytes(b"weights")
    return run


def test_journals_and_checkpoints_come_together(run):
    summary = gather(run)
    assert summary["world"] == "hosts" and summary["rounds"] == 2 and summary["bytes"]["total"] == 22
    assert summary["accuracy"]["per_peer"] == [0.5, 0.75]
    assert summary["seconds"]["wall"] == 3.0, "from the first start, not from when the folder was made"
    assert json.loads(run.summary_file.read_text()) == summary and run.report_file.exists()
    for index in range(2):
        assert (run.checkpoints / f"peer-{index}" / "2.safetensors").read_bytes() == b"weights"


def test_copies_that_lie_elsewhere_are_gathered_too(run, tmp_path):
    (run.path / APART / "peer-1").rename(tmp_path / "copy")
    assert gather(run, [tmp_path / "copy"])["accuracy"]["per_peer"] == [None, 0.75]


def test_keys_stay_as_they_are_and_links_are_not_followed(run, tmp_path):
    before = (run.node("peer-0") / IDENTITY).read_bytes()
    own = run.path / APART / "peer-0" / "nodes" / "peer-0"
    (own / IDENTITY).write_bytes(b"another key")
    (tmp_path / "secret").write_text("of this machine")
    (own / "log.txt").symlink_to(tmp_path / "secret")
    gather(run)
    assert (run.node("peer-0") / IDENTITY).read_bytes() == before
    assert not (run.node("peer-0") / "log.txt").exists()


def test_a_run_of_another_recipe_is_refused(run, tmp_path):
    settle(load_recipe("dimat-digits", ["peers=2", "rounds=3"]), tmp_path / "other", HOSTS, apart=True).close()
    with pytest.raises(RunDirectoryError, match="rounds"):
        gather(run, [tmp_path / "other" / APART / "peer-0"])


def test_a_run_that_nobody_has_begun_comes_to_nothing(tmp_path):
    settle(load_recipe("dimat-digits", ["peers=2"]), tmp_path / "run", HOSTS).close()
    assert gather(RunDirectory.open(tmp_path / "run"))["rounds"] == 0
