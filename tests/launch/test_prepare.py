"""A folder is made ready once: what was trained and cut before is not done again, and nothing else takes its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from decentral.errors import RecipeError, RunDirectoryError, UserError
from decentral.launch.engine import Options
from decentral.launch.prepare import is_prepared, prepare
from decentral.models.catalogue import build_model
from decentral.run.directory import RunDirectory, ServingDirectory, peer_name
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.training.checkpoint import Checkpoints
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.authority import Authority

TRAINING = "peers: 2\nrounds: 3\nmodel: {name: mlp, hidden: [6, 5]}\n"


class Trainer:
    """Leaves untrained models where a run would, and counts how often it is asked."""

    def __init__(self, rounds: int = 3) -> None:
        self.rounds, self.asked = rounds, list[bool]()

    def __call__(self, recipe: Recipe, options: Options) -> None:
        self.asked.append(options.resume)
        assert options.out is not None
        directory = (
            RunDirectory.resume(options.out, recipe)
            if options.resume
            else RunDirectory.create(options.out, recipe, "local")
        )
        with directory as run:
            for peer in range(recipe.peers):
                state = build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict()
                Checkpoints(run.checkpoints, peer_name(peer)).save(self.rounds, dict(state), {})
            summary = {"rounds": self.rounds, "accuracy": {"per_peer": [0.5, 0.25]}}
            run.write(run.summary_file, json.dumps(summary).encode())


@pytest.fixture
def recipe(tmp_path: Path) -> ServingRecipe:
    (tmp_path / "small.yaml").write_text(TRAINING)
    return ServingRecipe.model_validate({"stages": ["2"], "model": {"recipe": str(tmp_path / "small.yaml")}})


def test_a_model_is_trained_and_cut_once(tmp_path: Path, recipe: ServingRecipe) -> None:
    train, said = Trainer(), list[str]()
    assert not is_prepared(tmp_path / "here")
    cluster = prepare(recipe, tmp_path / "here", train=train, say=said.append)
    assert is_prepared(tmp_path / "here") and not cluster.in_use
    assert "peer-0" in said[0]
    anchors = Anchors.load(cluster.path / FILE)
    assert [part.name for part in anchors.parts] == ["stage-0", "stage-1"]
    assert (anchors.epoch, anchors.peers, anchors.authority) == (1, (), Authority.load(cluster.authority).pem)
    before = (cluster.path / FILE).read_bytes()
    prepare(recipe, tmp_path / "here", train=train, say=said.append)
    assert (cluster.path / FILE).read_bytes() == before
    assert train.asked == [False] and len(said) == 1


def test_an_interrupted_training_is_gone_on_with(tmp_path: Path, recipe: ServingRecipe) -> None:
    with pytest.raises(UserError, match="round 1 of 3"):
        prepare(recipe, tmp_path / "here", train=Trainer(rounds=1))
    train = Trainer()
    prepare(recipe, tmp_path / "here", train=train)
    assert train.asked == [True]


def test_a_mistake_in_the_cuts_can_be_put_right_without_training_again(tmp_path: Path, recipe: ServingRecipe) -> None:
    train = Trainer()
    with pytest.raises(RecipeError, match="no module") as refused:
        prepare(recipe.model_copy(update={"stages": ("99",)}), tmp_path / "here", train=train)
    assert refused.value.key == "stages" and not is_prepared(tmp_path / "here")
    cluster = prepare(recipe, tmp_path / "here", train=train)
    assert train.asked == [False]
    assert ServingDirectory.open(cluster.path).recipe == recipe


def test_another_recipe_is_refused_once_stages_are_there(tmp_path: Path, recipe: ServingRecipe) -> None:
    prepare(recipe, tmp_path / "here", train=Trainer())
    with pytest.raises(RunDirectoryError, match="these keys differ: replicas"):
        prepare(recipe.model_copy(update={"replicas": 4}), tmp_path / "here", train=Trainer())


def test_a_cluster_that_is_up_and_a_folder_of_somebody_else_are_refused(tmp_path: Path, recipe: ServingRecipe) -> None:
    cluster = prepare(recipe, tmp_path / "here", train=Trainer())
    with cluster.hold(), pytest.raises(RunDirectoryError, match="is up already"):
        prepare(recipe, tmp_path / "here")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
        prepare(recipe, tmp_path / "mine")


def test_what_was_calibrated_stays(tmp_path: Path, recipe: ServingRecipe) -> None:
    from dataclasses import replace

    cluster = prepare(recipe, tmp_path / "here", train=Trainer())
    anchors = Anchors.load(cluster.path / FILE)
    parts = tuple(replace(part, tolerance=3e-6, gain=2.5) for part in anchors.parts)
    replace(anchors, parts=parts, epoch=4).save(cluster.path / FILE)
    prepare(recipe, tmp_path / "here")
    assert Anchors.load(cluster.path / FILE).parts == parts


def test_a_model_of_which_more_might_leak_than_the_policy_allows_is_not_ready(
    tmp_path: Path, recipe: ServingRecipe
) -> None:
    asking = recipe.model_copy(update={"policy": {"leakage": 0.5}})
    with pytest.raises(UserError, match="nobody has measured"):
        prepare(asking, tmp_path / "here", train=Trainer())


def test_a_file_needs_no_training(tmp_path: Path) -> None:
    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict(), tmp_path / "model.pth")
    model = {"file": str(tmp_path / "model.pth"), "name": "mlp", "hidden": [6, 5]}
    recipe = ServingRecipe.model_validate({"stages": 2, "model": model, "data": {}})
    train = Trainer()
    assert is_prepared(prepare(recipe, tmp_path / "here", train=train).path)
    assert train.asked == []
