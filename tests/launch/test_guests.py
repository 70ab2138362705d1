"""Nodes that are added to a run: what they serve, what is refused before anything is written, and that they answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from decentral.data.clusters import ASSIGNMENT
from decentral.errors import UserError
from decentral.launch.background import start_serving, stop
from decentral.launch.cluster import LOCK
from decentral.launch.guests import add_expert, add_replica, remove
from decentral.launch.serving import EXPERT, PART, parts_of
from decentral.run.directory import RunDirectory, peer_name
from decentral.serving.access import PIPELINE
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.generation import Wish, generate
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.router import with_clusters
from tests.launch.experts import EXPERTS, small


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(model: Any, name: str) -> Path:
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def served(run: RunDirectory) -> list[tuple[str, str]]:
    return [(part.node, part.name) for part in parts_of(run) if part.script]


OWN = [("peer-0", "expert-0"), ("peer-1", "expert-1")]


def test_a_replica_is_a_node_of_its_own_with_the_same_model(run):
    add_replica(run, 1)
    add_replica(run, 0)
    assert served(run) == [*OWN, ("peer-3", "expert-1"), ("peer-4", "expert-0")]
    parts = parts_of(run)
    assert [part.node for part in parts] == [peer_name(index) for index in range(5)], "the node's index is its number"
    assert parts[2].script == "" and parts[3].digest == parts[1].digest
    assert DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE).router.config.out_channels == EXPERTS
    with pytest.raises(UserError, match="nobody serves expert-7"):
        add_replica(run, 7)


def test_an_expert_of_another_run_joins_with_a_router_that_knows_it(run, saved):
    router = with_clusters(small(9, EXPERTS), [0, 1, None])
    added = add_expert(run, saved(small(5), "other"), saved(router, "router"))
    assert (added.node, added.name, added.digest) == ("peer-3", "expert-2", digest_of(small(5)))
    assert served(run) == [*OWN, ("peer-3", "expert-2")]
    pipeline = DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE)
    assert sorted(pipeline.experts) == [0, 1, 2] and digest_of(pipeline.experts[2]) == added.digest
    assert pipeline.router.config.out_channels == 3 and (run.path / PIPELINE / ASSIGNMENT).is_file()
    again = add_expert(run, saved(small(6), "third"), saved(with_clusters(router, [0, 1, 2, None]), "router-4"))
    assert (again.node, again.name) == ("peer-4", "expert-3")


def test_what_does_not_fit_is_refused_and_nothing_is_written(run, saved):
    other, router = saved(small(5), "other"), saved(small(9, 3), "router")
    wide, twin = saved(small(5, channels=(8, 24)), "wide"), saved(small(1), "twin")
    before = sorted(path for path in run.path.rglob("*"))
    for source, knowing, problem in [
        (other, None, "tells 2 clusters apart, and with expert-2 there are 3"),
        (other, saved(small(9, 4), "router-4"), "tells 4 clusters apart"),
        (wide, router, "expert_2 does not fit"),
        (twin, router, "is served already; a replica is added by --replica-of"),
        (run.path, router, "holds no expert"),
        (other, run.path, "holds no expert and no router"),
    ]:
        with pytest.raises(UserError, match=problem):
            add_expert(run, source, knowing)
    assert sorted(path for path in run.path.rglob("*")) == before


def test_a_replica_of_a_model_that_is_not_what_its_digest_says_is_refused(run):
    small(8).save_pretrained(run.nodes / "peer-1" / EXPERT)
    with pytest.raises(UserError, match="not the model that its digest names"):
        add_replica(run, 1)
    assert served(run) == OWN and not (run.nodes / "peer-3" / PART).exists()


def test_an_expert_that_goes_leaves_its_number_free_for_one_that_the_router_knows(run, saved):
    gone = remove(run, "expert-0")
    assert [part.node for part in gone] == ["peer-0"] and served(run) == [OWN[1]]
    pipeline = DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE)
    assert sorted(pipeline.experts) == [1] and pipeline.router.config.out_channels == EXPERTS
    added = add_expert(run, saved(small(5), "other"))
    assert (added.node, added.name) == ("peer-3", "expert-0")
    assert sorted(DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE).experts) == [0, 1]
    router = with_clusters(small(9, EXPERTS), [0, 1, None])
    assert add_expert(run, saved(small(6), "third"), saved(router, "router")).name == "expert-2"


def test_one_of_two_nodes_goes_and_the_expert_stays(run):
    added = add_replica(run, 1)
    remove(run, "peer-1")
    assert served(run) == [OWN[0], (added.node, "expert-1")]
    assert sorted(DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE).experts) == [0, 1]


def test_nobody_and_the_last_one_cannot_go(run):
    with pytest.raises(UserError, match="nobody there serves, or is called, expert-7"):
        remove(run, "expert-7")
    remove(run, "expert-1")
    with pytest.raises(UserError, match="expert-0 is all that is served"):
        remove(run, "expert-0")
    with pytest.raises(UserError, match="nobody serves expert-1"):
        add_replica(run, 1)
    assert served(run) == [OWN[0]]


@pytest.mark.slow
def test_a_replica_goes_on_where_a_node_is_killed_and_an_added_expert_is_asked(run, saved):
    router = with_clusters(small(9, EXPERTS), [0, 1, None])
    add_expert(run, saved(small(5), "other"), saved(router, "router"))
    add_replica(run, 1)
    wish, killed = Wish(8, 12, "full", 1.0, (), 0), False

    def kill(batch: int, step: int) -> None:
        nonlocal killed
        if not killed and step == 4:
            killed = True
            os.kill(process_of(run, "peer-1"), signal.SIGKILL)

    launcher = start_serving(run, restarts=0)
    try:
        whole = asyncio.run(generate(run.path, wish))
        hurt = asyncio.run(generate(run.path, wish, kill))
    finally:
        stop(run)
        launcher.wait(60)
    assert killed and whole.absent == hurt.absent == whole.replaced == {}
    assert list(hurt.replaced) == [1] and hurt.replaced[1].startswith("peer-4 instead of peer-1: ")
    assert [image.tobytes() for image in hurt.images] == [image.tobytes() for image in whole.images]
    assert hurt.evaluations == whole.evaluations == dict.fromkeys(range(3), 8 * 12)


def process_of(run: RunDirectory, name: str) -> int:
    """The process that has the node's lock open, as the kernel knows it."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == run.nodes / name / LOCK:
                return int(link.parts[2])
    raise AssertionError(f"{name} is not running")
