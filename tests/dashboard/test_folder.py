"""A folder of a run is a source while it is written, and afterwards; nothing in it is touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from decentral.dashboard.folder import FolderSource
from decentral.errors import RunDirectoryError
from decentral.launch.cluster import node_lock
from decentral.run.directory import RunDirectory, ServingDirectory
from decentral.run.journal import Journal
from decentral.serving.selection.ledger import FILE, Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.trust.anchors import FILE as TRUST
from tests.trust.world import World


def replicas(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in facts["replicas"]}


def files(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_events_come_as_they_are_written_and_each_once(run: RunDirectory) -> None:
    source = FolderSource(run.path)
    with Journal(run.journal_file("peer-0"), 0, lambda: 1.5) as journal:
        journal.record("phase", round=1, phase="train")
        assert [event["event"] for event in source.poll()] == ["phase"]
        assert source.poll() == []
        journal.record("round", round=1, bytes={"total": 0})
        assert [event["event"] for event in source.poll()] == ["round"]
    assert source.about().head["does"] == "training"


def test_it_knows_who_runs(run: RunDirectory) -> None:
    source = FolderSource(run.path)
    with node_lock(run.node("peer-1")):
        assert source.facts() == {"running": True, "pictures": [], "alive": [1]}
    run.close()
    assert source.facts() == {"running": False, "pictures": []}


def test_a_cluster_that_serves_is_known_before_it_is_prepared(serving: ServingDirectory) -> None:
    facts = FolderSource(serving.path).facts()
    assert [part["name"] for part in facts["parts"]] == ["stage-0", "stage-1", "stage-2"]
    assert [name for name, each in replicas(facts).items() if each["behaviour"]] == ["stage-1-b"]
    assert facts["receipts"] == []
    assert "no client" in facts["ledger"]


def test_reputations_and_receipts_are_those_of_this_machine(serving: ServingDirectory) -> None:
    world = World()
    world.anchors.save(serving.path / TRUST)
    (serving.path / "receipts").mkdir()
    world.receipt({("stage-1", 1): "lies"}).save(serving.path / "receipts" / "one.json")
    peer = next(peer for peer in world.anchors.peers if peer.name == "stage-1-a")
    with Ledger.open(serving.client / FILE) as ledger:
        Reputations(ledger).record(agreed=[peer.id, peer.id], passed=[peer.id])
    source = FolderSource(serving.path)
    before = files(serving.path / "stages")
    facts = source.facts()
    source.close()
    assert replicas(facts)["stage-1-a"]["reputation"] == {
        "score": pytest.approx(4 / 7, abs=1e-3),
        "good": pytest.approx(3, abs=0.1),
        "bad": 0,
        "passed": 1,
        "newcomer": True,
    }
    assert replicas(facts)["stage-1-b"]["reputation"]["good"] == 0
    assert facts["receipts"][0]["valid"]
    assert facts["parts"][0]["digest"] == world.anchors.parts[0].digest
    assert files(serving.path / "stages") == before


def test_a_ledger_that_cannot_be_used_says_why(serving: ServingDirectory) -> None:
    (serving.client / FILE).write_text("no ledger")
    (serving.client / FILE).chmod(0o600)
    assert "damaged" in FolderSource(serving.path).facts()["ledger"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        FolderSource(tmp_path)
