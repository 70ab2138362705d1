"""Where samples are drawn, status tells whose turn it is; where stages are served, which node has which part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.algorithms.presence import Member
from decentral.cli.main import app
from decentral.launch.cluster import Cluster, node_lock
from decentral.run.directory import RunDirectory, ServingDirectory
from decentral.run.journal import Journal
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import CERTIFICATE, Anchor, Anchors, Part
from decentral.trust.anchors import FILE as TRUST
from decentral.wire.identity import Identity

runner = CliRunner()


def drawn(round: int, view: str) -> dict[str, object]:
    return {"round": round, "participants": [2, 0], "aggregators": [2], "candidates": 3, "view": view}


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Three peers in their second round; two of them have drawn the next sample."""
    recipe = Recipe.model_validate({"algorithm": "modest", "peers": 3, "rounds": 9, "sampling": {"size": 2}})
    with RunDirectory.create(tmp_path / "run", recipe, "local") as made:
        for peer in range(3):
            with Journal(made.journal_file(f"peer-{peer}"), peer, lambda: 1.0) as journal:
                journal.record("started", round=0, resumed=False, rejoined=False)
                if peer < 2:
                    journal.record("phase", round=2, phase="train")
                    journal.record("trained", round=2, loss=0.5, samples=10, seconds=0.1)
                    journal.record("sampled", **drawn(3, f"view-{peer}"))
    return str(tmp_path / "run")


def test_people_read_the_round_its_sample_and_the_views(run: str) -> None:
    told = runner.invoke(app, ["status", run]).stdout
    assert "round 2 of 9: peer-0, peer-1 in the sample, 2 done" in told
    assert "averaged by peer-2" in told
    assert "1 of 2 who drew for round 3 see the same candidates (3), 2 found the same sample" in told
    assert "peer-1" in told.partition("phase")[2], "the table of peers follows"


def test_programs_read_the_same(run: str) -> None:
    told = json.loads(runner.invoke(app, ["status", run, "--json"]).stdout)
    assert set(told["peers"]) == {"peer-0", "peer-1", "peer-2"}
    sample = told["sample"]
    assert (sample["round"], sample["participants"], sample["aggregators"]) == (2, ["peer-0", "peer-1"], ["peer-2"])
    assert sample["agreement"] == {"round": 3, "asked": 2, "view": 1, "sample": 2, "candidates": [3, 3]}


def test_other_algorithms_have_no_sample(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Recipe(peers=2), "local").close()
    assert "sample" not in json.loads(runner.invoke(app, ["status", str(tmp_path / "run"), "--json"]).stdout)


def test_before_the_first_round_nothing_is_said_of_samples(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Recipe(algorithm="modest"), "local").close()
    assert json.loads(runner.invoke(app, ["status", str(tmp_path / "run"), "--json"]).stdout)["sample"] is None
    assert "in the sample" not in runner.invoke(app, ["status", str(tmp_path / "run")]).stdout


# ---- of a model in stages --------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    """As it is left by `down`, or by a killed launcher: one node has crashed, and one liar is told to lie."""
    values = {"stages": ["a"], "replicas": 2, "local": 1, "liars": {"stage-1-b": "slow"}}
    with ServingDirectory.create(tmp_path / "serves", ServingRecipe.model_validate(values), "local") as made:
        parts = (Part("stage-0", "0" * 64, "client", 1e-4, 2.0), Part("stage-1", "1" * 64, "peers", 3e-6, 2.0))
        peers = [Member(i, name, Identity.generate().id, f"127.0.0.1:{7000 + i}") for i, name in enumerate(names(made))]
        anchors = tuple(Anchor(peer.name, peer.id, peer.address, "stage-1", "1" * 64) for peer in peers)
        Anchors(CERTIFICATE.encode(), anchors, 1, parts).save(made.path / TRUST)
        Cluster(tuple(peers), 0.0).save(made.path)
        for index, name in enumerate(names(made)):
            with Journal(made.journal_file(name), index, lambda: 1.0) as journal:
                journal.record("serving", part="stage-1", digest="1" * 64)
        with Journal(made.journal_file("launcher"), None, lambda: 2.0) as journal:
            journal.record("crashed", other=1, code=-9)
    return made


def names(directory: ServingDirectory) -> tuple[str, ...]:
    return directory.recipe.node_names


def test_every_node_is_shown_with_its_part_and_whether_it_runs(cluster: ServingDirectory) -> None:
    told = json.loads(runner.invoke(app, ["status", str(cluster.path), "--json"]).stdout)
    assert (told["running"], told["launcher"]) == (False, None)
    assert [(part["name"], part["at"]) for part in told["parts"]] == [("stage-0", "client"), ("stage-1", "peers")]
    assert set(told["nodes"]) == {"stage-1-a", "stage-1-b"}
    assert told["nodes"]["stage-1-a"] == {
        "part": "stage-1",
        "running": False,
        "phase": "not running",
        "address": "127.0.0.1:7000",
        "behaviour": None,
    }
    assert (told["nodes"]["stage-1-b"]["phase"], told["nodes"]["stage-1-b"]["behaviour"]) == ("crashed", "slow")
    with node_lock(cluster.node("stage-1-a")):
        told = json.loads(runner.invoke(app, ["status", str(cluster.path), "--json"]).stdout)
    assert told["nodes"]["stage-1-a"]["running"] and told["nodes"]["stage-1-a"]["phase"] == "serving"


def test_people_read_the_same_and_that_lies_are_simulated(cluster: ServingDirectory) -> None:
    told = runner.invoke(app, ["status", str(cluster.path)]).stdout
    assert "2 stages, not running" in told
    assert "simulated liars: stage-1-b by slow" in told
    assert "stage-0  client" in told and "3e-06" in told
    assert "stage-1-a  stage-1  not running  127.0.0.1:7000" in told


def test_before_anything_is_prepared_there_are_nodes_and_no_parts(tmp_path: Path) -> None:
    recipe = ServingRecipe.model_validate({"stages": 2})
    ServingDirectory.create(tmp_path / "serves", recipe, "local").close()
    told = json.loads(runner.invoke(app, ["status", str(tmp_path / "serves"), "--json"]).stdout)
    assert told["parts"] == [] and len(told["nodes"]) == 6


def test_a_report_is_of_training(cluster: ServingDirectory) -> None:
    refused = runner.invoke(app, ["report", str(cluster.path)])
    assert refused.exit_code == 2 and "in serving, not in training" in refused.output


def test_both_kinds_of_recipes_are_listed_and_shown() -> None:
    listed = {recipe["name"] for recipe in json.loads(runner.invoke(app, ["recipes", "--json"]).stdout)}
    assert {"dimat-digits", "serve-digits"} <= listed
    shown = json.loads(runner.invoke(app, ["show", "serve-digits", "--set", "local=1", "--json"]).stdout)
    assert (shown["recipe"]["local"], shown["recipe"]["model"]["recipe"]) == (1, "dimat-digits")
