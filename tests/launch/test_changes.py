"""A cluster that stands takes in an expert and lets one go: who is at work ends as they began, who comes later finds
what is there then, and the trust file and the router are always of one epoch."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.errors import UserError
from decentral.launch import changes
from decentral.launch.background import start_serving, stop
from decentral.launch.changes import LEFT, NEXT, adopt, changing, forget, has_left, leave, parted, router_digest
from decentral.launch.cluster import is_running
from decentral.launch.guests import add_expert
from decentral.launch.serving import parts_of
from decentral.run.directory import RunDirectory
from decentral.serving.access import PIPELINE
from decentral.serving.experts import generation
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.generation import Generated, Wish, generate
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.router import with_clusters
from decentral.trust.anchors import FILE, Anchors
from tests.launch.experts import EXPERTS, small


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def known(run: RunDirectory) -> tuple[int, int]:
    """Experts that are in the ensemble, and clusters that its router knows."""
    pipeline = DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE)
    return len(pipeline.experts), pipeline.router.config.out_channels


def test_an_ensemble_waits_until_its_node_serves(run, tmp_path):
    router = saved(with_clusters(small(9, EXPERTS), [0, 1, None]), tmp_path / "router")
    added = add_expert(run, saved(small(5), tmp_path / "other"), router, standing=True)
    assert known(run) == (2, 2) and router_digest(run.path) == ""
    adopt(run, "peer-0")
    assert known(run) == (2, 2), "none waits for another node"
    adopt(run, added.node)
    assert known(run) == (3, 3) and not (run.nodes / added.node / NEXT).exists()
    assert router_digest(run.path) == digest_of(
        DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE).router
    )
    adopt(run, added.node)
    assert known(run) == (3, 3)


def test_a_node_that_left_serves_nothing_and_nothing_waits_for_it(run, tmp_path):
    router = saved(with_clusters(small(9, EXPERTS), [0, 1, None]), tmp_path / "router")
    added = add_expert(run, saved(small(5), tmp_path / "other"), router, standing=True)
    assert not has_left(run, added.node)
    leave(run, added.node)
    assert has_left(run, added.node) and not (run.nodes / added.node / NEXT).exists()
    assert [part.name for part in parts_of(run)] == ["expert-0", "expert-1", "", ""]
    forget(run, "expert-1")
    forget(run, "expert-1")
    assert known(run) == (1, 2)


def test_one_change_at_a_time(run):
    with changing(run), pytest.raises(UserError, match="somebody else is adding or removing"), changing(run):
        raise AssertionError("two at once")
    with changing(run):
        assert True


async def test_a_node_parts_when_its_last_client_has_gone(run, monkeypatch):
    for name in ("NODE_LOOK", "LATECOMERS"):
        monkeypatch.setattr(changes, name, 0.001)
    sessions = 2
    parting = asyncio.create_task(parted(run, "peer-0", lambda: sessions))
    await asyncio.sleep(0.05)
    assert not parting.done(), "it has not left"
    leave(run, "peer-0")
    await asyncio.sleep(0.05)
    assert not parting.done(), "it has clients"
    sessions = 0
    await asyncio.wait_for(parting, 10)
    monkeypatch.setattr(changes, "PARTING", 0.01)
    await asyncio.wait_for(parted(run, "peer-0", lambda: 1), 10)


def invoke(*arguments: str) -> dict[str, Any]:
    """A command in this process; what it says as JSON."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def during(run: RunDirectory, wish: Wish, *arguments: str) -> tuple[Generated, dict[str, Any]]:
    """A sampling between two steps of which a command changes the cluster, and what that says."""
    told: list[dict[str, Any]] = []

    def after_step(batch: int, step: int) -> None:
        if step == 4 and not told:
            told.append(invoke(*arguments))

    made = asyncio.run(generate(run.path, wish, after_step))
    return made, told[0]


@pytest.mark.slow
def test_an_expert_comes_and_goes_while_the_cluster_stands(run, tmp_path):
    router = saved(with_clusters(small(9, EXPERTS), [0, 1, None]), tmp_path / "router")
    other = saved(small(5), tmp_path / "other")
    wish = Wish(8, 12, "full", 1.0, (), 0)
    launcher = start_serving(run)
    try:
        epoch = Anchors.load(run.path / FILE).epoch
        before = asyncio.run(generate(run.path, wish))
        through, told = during(run, wish, "add", str(run.path), str(other), "--router", str(router))
        assert (told["node"], told["part"]) == ("peer-3", "expert-2")
        assert sorted(through.evaluations) == [0, 1] and through.absent == {}
        assert [image.tobytes() for image in through.images] == [image.tobytes() for image in before.images]

        after = asyncio.run(generate(run.path, wish))
        assert after.absent == {} and after.evaluations == dict.fromkeys(range(3), 8 * 12)
        anchors = Anchors.load(run.path / FILE)
        assert anchors.epoch == epoch + 1 and anchors.router == router_digest(run.path) != ""
        assert [peer.part for peer in anchors.peers if peer.part] == ["expert-0", "expert-1", "expert-2"]

        leaving, told = during(run, wish, "remove", str(run.path), "expert-0")
        assert told == {"dir": str(run.path), "nodes": ["peer-0"], "part": "expert-0"}
        assert sorted(leaving.evaluations) == [0, 1, 2] and leaving.absent == {} == leaving.replaced
        later = asyncio.run(generate(run.path, wish))
        assert sorted(later.evaluations) == [1, 2] and list(later.absent) == [0]
        assert Anchors.load(run.path / FILE).epoch == epoch + 2
        assert (run.nodes / "peer-0" / LEFT).exists()
        ends = time.monotonic() + 60
        while is_running(run.nodes / "peer-0") and time.monotonic() < ends:
            time.sleep(0.1)
        assert [is_running(run.nodes / f"peer-{index}") for index in (0, 1, 3)] == [False, True, True]
    finally:
        stop(run)
        launcher.wait(60)
    assert not any(is_running(run.nodes / f"peer-{index}") for index in range(4))
    launcher = start_serving(run)  # what has come and gone is so the next time too
    try:
        again = asyncio.run(generate(run.path, wish))
        assert [image.tobytes() for image in again.images] == [image.tobytes() for image in later.images]
        assert Anchors.load(run.path / FILE).epoch == epoch + 2
    finally:
        stop(run)
        launcher.wait(60)


@pytest.mark.slow
def test_a_newcomer_that_cannot_serve_is_turned_away_and_the_cluster_goes_on(run, tmp_path, monkeypatch):
    router = saved(with_clusters(small(9, EXPERTS), [0, 1, None]), tmp_path / "router")
    other = saved(small(5), tmp_path / "other")
    launcher = start_serving(run)
    try:
        trust = (run.path / FILE).read_bytes()
        added = Path(run.nodes / "peer-3" / "expert" / "config.json")
        monkeypatch.setattr("decentral.launch.guests.write_atomic", lambda path, data: spoil(added, path, data))
        done = CliRunner().invoke(app, ["add", str(run.path), str(other), "--router", str(router)])
        assert done.exit_code == 2 and "could not serve, and the cluster goes on without" in " ".join(
            done.output.split()
        )
        assert (run.path / FILE).read_bytes() == trust and known(run) == (2, 2)
        made = asyncio.run(generate(run.path, Wish(4, 3, "full", 1.0, (), 0)))
        assert sorted(made.evaluations) == [0, 1] and made.absent == {}
        assert parts_of(run)[3].script == ""

        anchors = Anchors.load(run.path / FILE)
        monkeypatch.setattr(generation, "SETTLING", 0.5)
        replace(anchors, router="ab" * 32).save(run.path / FILE)
        with pytest.raises(UserError, match=r"has another router than the one that .*trust\.toml pins"):
            asyncio.run(generate(run.path, Wish(4, 3, "full", 1.0, (), 0)))
        monkeypatch.setattr(generation, "SETTLING", 60.0)
        settled = threading.Timer(1.0, anchors.save, [run.path / FILE])
        settled.start()
        made = asyncio.run(generate(run.path, Wish(4, 3, "full", 1.0, (), 0)))
        assert made.absent == {} and not settled.is_alive(), "it waited until both were of one epoch"
    finally:
        stop(run)
        launcher.wait(60)


def spoil(model: Path, path: Path, data: bytes) -> None:
    """The model is damaged in the moment before its node is announced."""
    model.write_text("{}")
    path.write_bytes(data)
