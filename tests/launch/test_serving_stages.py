"""A model in stages, served by real processes: up, looked at, a replica killed and back, down, and up again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decentral.errors import RunDirectoryError, UserError
from decentral.launch.background import LocalCluster, start_serving
from decentral.launch.cluster import LOCK, Cluster, is_running
from decentral.launch.prepare import prepare
from decentral.launch.serving import parts_of
from decentral.models.catalogue import build_model
from decentral.run.directory import ServingDirectory, open_cluster
from decentral.run.journal import Tail
from decentral.run.serving_recipe import ServingRecipe, load_any_recipe
from decentral.serving.access import Access, access
from decentral.serving.stages.model import FILE as NETWORK
from decentral.serving.stages.model import file_of, load_stages
from decentral.trust.anchors import FILE, Anchor, Anchors
from decentral.wire.conversation import Task
from decentral.wire.sessions import open_session

RECIPE = """\
stages: ["2", "4"]
replicas: 3
model: {{file: {file}, name: mlp, hidden: [6, 5]}}
data: {{name: digits}}
liars: {{stage-1-c: wrong-output}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe of a model that nobody has trained."""
    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict(), tmp_path / "model.pth")
    (tmp_path / "small.yaml").write_text(RECIPE.format(file=tmp_path / "model.pth"))
    return tmp_path / "small.yaml"


def decentral(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


async def ask(reached: Access, replica: Anchor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    async with open_session(reached.links, replica.id, deadline=60.0) as session:
        output = await session.ask(Task(replica.part, bytes.fromhex(replica.digest), tensors), 60.0)
        return dict(output.tensors)


async def answers(cluster: Path, x: Tensor) -> dict[str, Tensor]:
    """What each replica comes to about the right inputs of its stage."""
    stages = load_stages(cluster / "stages")
    found, tensors = {}, {stages[0].inputs[0].name: x}
    async with access(cluster) as reached:
        for place, part in enumerate(reached.anchors.parts):
            for replica in reached.anchors.replicas(part.name):
                (found[replica.name],) = (await ask(reached, replica, tensors)).values()
            tensors = stages[place].run(tensors)
            (found[part.name],) = tensors.values()
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_up_status_kill_down_and_up_again(tmp_path: Path, file: Path) -> None:
    up = decentral("up", str(file), "--dir", "here", "--json", folder=tmp_path)
    assert up.returncode == 0, up.stderr
    cluster = open_cluster(tmp_path / "here")
    assert isinstance(cluster, ServingDirectory)
    try:
        assert json.loads(up.stdout)["nodes"] == 9
        assert "stage-1-c by wrong-output" in up.stderr
        status = json.loads(decentral("status", "here", "--json", folder=tmp_path).stdout)
        assert status["running"] and status["launcher"] == json.loads(up.stdout)["launcher"]
        assert [part["name"] for part in status["parts"]] == ["stage-0", "stage-1", "stage-2"]
        assert set(status["nodes"]) == set(cluster.recipe.node_names)
        assert all(node["running"] and node["phase"] == "serving" for node in status["nodes"].values())
        assert [name for name, node in status["nodes"].items() if node["behaviour"]] == ["stage-1-c"]
        shown = decentral("status", "here", folder=tmp_path).stdout
        assert "stage-2-b" in shown and "simulated liars: stage-1-c by wrong-output" in shown

        found = asyncio.run(answers(cluster.path, torch.rand(4, 1, 8, 8)))
        for replica in cluster.recipe.nodes:
            right = torch.equal(found[replica.node], found[cluster.recipe.parts[replica.stage]])
            assert right == (replica.node != "stage-1-c"), replica.node

        tail = Tail(cluster.path)
        tail.poll()
        index = cluster.recipe.node_names.index("stage-2-b")
        os.kill(process_of(cluster.nodes / "stage-2-b" / LOCK), signal.SIGKILL)
        ends, seen = time.monotonic() + 120, []
        while time.monotonic() < ends and ("serving", index) not in seen:
            seen += [(event["event"], event["peer"]) for event in tail.poll()]
            time.sleep(0.05)
        assert ("crashed", None) in seen and ("serving", index) in seen

        again = decentral("up", str(file), "--dir", "here", folder=tmp_path)
        assert again.returncode == 2 and "is up already" in again.stderr
        assert "stage-0-a" in json.loads(decentral("logs", "here", "--json", folder=tmp_path).stdout)
    finally:
        down = decentral("down", "here", folder=tmp_path)
    assert down.returncode == 0 and "decentral up" in down.stdout
    assert not any(is_running(cluster.nodes / name) for name in cluster.recipe.node_names)
    ended = json.loads(decentral("status", "here", "--json", folder=tmp_path).stdout)
    assert not ended["running"] and not any(node["running"] for node in ended["nodes"].values())

    ids = {peer.name: peer.id for peer in Anchors.load(cluster.path / FILE).peers}
    (tmp_path / "model.pth").unlink()
    up = decentral("up", str(cluster.recipe_file), "--dir", "here", folder=tmp_path)
    try:
        assert up.returncode == 0, up.stderr
        assert {peer.name: peer.id for peer in Anchors.load(cluster.path / FILE).peers} == ids
        assert len(asyncio.run(answers(cluster.path, torch.rand(1, 1, 8, 8)))) == 9 + 3
    finally:
        assert decentral("down", "here", folder=tmp_path).returncode == 0


def process_of(lock: Path) -> int:
    """The process that has the file open, as the kernel knows it."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == lock:
                return int(link.parts[2])
        except OSError:  # it has just ended
            continue
    raise AssertionError(f"nobody holds {lock}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_in_python_serves_inside_its_block(tmp_path: Path, file: Path) -> None:
    with LocalCluster(file, overrides=["replicas=1", "policy={replicas: 1, quorum: 1, faulty: 0}", "liars={}"]) as up:
        assert isinstance(up.recipe, ServingRecipe)
        members = Cluster.load(up.directory).members
        assert [member.name for member in members] == ["stage-0-a", "stage-1-a", "stage-2-a"]
        found = asyncio.run(answers(up.directory, torch.rand(2, 1, 8, 8)))
        assert all(torch.equal(found[f"{part}-a"], found[part]) for part in up.recipe.parts)
        with pytest.raises(UserError, match="until its with block ends"):
            up.wait()
    assert not up.directory.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_whose_stage_is_not_the_one_that_is_pinned_ends_the_cluster_with_its_words(
    tmp_path: Path, file: Path
) -> None:
    recipe = load_any_recipe(file)
    assert isinstance(recipe, ServingRecipe)
    cluster = prepare(recipe, tmp_path / "here")
    (tmp_path / "other").mkdir()
    other = build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict()
    torch.save(other, tmp_path / "model.pth")
    changed = prepare(recipe, tmp_path / "other" / "here")
    file_of(changed.stages, 1).replace(file_of(cluster.stages, 1))
    with pytest.raises(UserError, match="pins stage 1 as"):
        start_serving(cluster)
    assert not cluster.in_use


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_behaviour_with_an_option_that_it_does_not_have_is_named(tmp_path: Path, file: Path) -> None:
    lying = [
        "liars={stage-0-a: {name: wrong-output, nosuch: 1}}",
        "replicas=1",
        "policy={replicas: 1, quorum: 1, faulty: 0}",
    ]
    with pytest.raises(UserError, match=r"liars\.stage-0-a: .*nosuch"), LocalCluster(file, overrides=lying):
        raise AssertionError("a node took an option that means nothing")


def test_each_replica_serves_the_part_that_is_pinned(tmp_path: Path, file: Path) -> None:
    recipe = load_any_recipe(file, ["local=1", "liars={}"])
    assert isinstance(recipe, ServingRecipe)
    cluster = prepare(recipe, tmp_path / "here")
    pinned = {part.name: part.digest for part in Anchors.load(cluster.path / FILE).parts}
    parts = parts_of(cluster)
    assert [(part.node, part.name, part.script) for part in parts[:3]] == [
        (f"stage-1-{letter}", "stage-1", "stage.py") for letter in "abc"
    ]
    assert all(part.digest == pinned[part.name] for part in parts) and len(parts) == 6


def test_what_is_not_prepared_is_not_started(tmp_path: Path, file: Path) -> None:
    recipe = ServingRecipe.model_validate({"stages": 2, "model": {"recipe": "dimat-digits"}})
    ServingDirectory.create(tmp_path / "here", recipe, "local").close()
    cluster = ServingDirectory.open(tmp_path / "here")
    with pytest.raises(UserError, match=r"not there yet; go on with it: decentral up"):
        parts_of(cluster)
    assert not (cluster.stages / NETWORK).exists()
    done = decentral("serve", "here", folder=tmp_path)
    assert done.returncode == 2 and "not there yet" in done.stderr


def test_mistakes_in_cuts_name_the_line_of_the_recipe(tmp_path: Path, file: Path) -> None:
    file.write_text(file.read_text().replace('["2", "4"]', '["2", "seven"]'))
    done = decentral("up", str(file), "--dir", "here", folder=tmp_path)
    assert done.returncode == 2 and "small.yaml:1: stages: " in done.stderr and "'seven'" in done.stderr


def test_a_serving_recipe_is_not_run(tmp_path: Path) -> None:
    done = decentral("run", "serve-digits", folder=tmp_path)
    assert done.returncode == 2 and "decentral up serve-digits --dir DIR" in done.stderr
    with pytest.raises(RunDirectoryError, match="holds no run"):
        open_cluster(tmp_path)
