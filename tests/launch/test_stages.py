"""From a run, or a file of parameters, to stages: what the stages compute in turn is what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from decentral.core.agreement import distance
from decentral.errors import RecipeError, UserError
from decentral.launch.stages import cut, estimated_gains
from decentral.models.catalogue import build_model
from decentral.models.stages import split
from decentral.run.directory import RunDirectory, peer_name
from decentral.run.finished import FinishedRun
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.serving.stages.model import Network, digest_of, load_stages
from decentral.training.checkpoint import Checkpoints

TRAINED = Recipe.model_validate({"peers": 2, "rounds": 3, "model": {"name": "mlp", "hidden": [6, 5]}})


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).eval()


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    """Of two peers, the second of them better, though nobody has trained them."""
    with RunDirectory.create(tmp_path / "run", TRAINED, "local") as made:
        for peer in range(2):
            Checkpoints(made.checkpoints, peer_name(peer)).save(3, dict(network(peer).state_dict()), {})
        made.write(made.summary_file, json.dumps({"rounds": 3, "accuracy": {"per_peer": [0.4, 0.8]}}).encode())
    return FinishedRun.open(tmp_path / "run")


def answers(folder: Path, x: torch.Tensor) -> torch.Tensor:
    stages = load_stages(folder)
    tensors = {stages[0].inputs[0].name: x}
    for stage in stages.values():
        tensors = stage.run(tensors)
    return tensors["output"]


def recipe(**values: object) -> ServingRecipe:
    return ServingRecipe.model_validate({"stages": ["2", "4"], **values})


def test_the_stages_of_a_run_are_its_best_peers_model_and_it_is_said_whose(tmp_path: Path, run: FinishedRun) -> None:
    said: list[str] = []
    parts = cut(recipe(tolerance=1e-3, local=1), run, tmp_path, said.append)
    x = torch.randn(7, 1, 8, 8)
    assert torch.equal(answers(tmp_path, x), network(1)(x))
    assert len(said) == 1 and "peer-1" in said[0] and "0.8000" in said[0]
    assert [(part.name, part.at, part.tolerance) for part in parts] == [
        ("stage-0", "client", 1e-3),
        ("stage-1", "peers", 1e-3),
        ("stage-2", "peers", 1e-3),
    ]
    assert [part.digest for part in parts] == [digest_of(stage) for stage in load_stages(tmp_path).values()]
    assert all(part.gain > 0 for part in parts)


def test_another_peers_model_is_taken_where_it_is_asked_for(tmp_path: Path, run: FinishedRun) -> None:
    cut(recipe(model={"run": "run", "peer": 0}), run, tmp_path)
    x = torch.randn(7, 1, 8, 8)
    assert torch.equal(answers(tmp_path, x), network(0)(x))


def test_what_a_client_has_to_know_is_written_beside_the_stages(tmp_path: Path, run: FinishedRun) -> None:
    cut(recipe(), run, tmp_path)
    known = Network.load(tmp_path)
    assert (known.input, known.classes, known.class_names[3]) == ((1, 8, 8), 10, "3")
    assert (known.mean, known.std, known.white) == ((0.0,), (16.0,), 16)
    images = known.dataset()
    assert images is not None and images.image_shape == known.input


def test_cutting_twice_comes_to_the_same(tmp_path: Path, run: FinishedRun) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert cut(recipe(), run, tmp_path / "a") == cut(recipe(), run, tmp_path / "b")


def test_a_file_of_parameters_is_served_as_the_network_that_it_is_for(tmp_path: Path) -> None:
    save_file(network(5).state_dict(), tmp_path / "model.safetensors")
    model = {"file": str(tmp_path / "model.safetensors"), "name": "mlp", "hidden": [6, 5]}
    cut(recipe(model=model, data={"name": "digits"}), None, tmp_path)
    x = torch.randn(7, 1, 8, 8)
    assert torch.equal(answers(tmp_path, x), network(5)(x))
    without_data = recipe(model={**model, "input": [1, 8, 8], "classes": 10})
    assert all(part.gain > 0 for part in cut(without_data, None, tmp_path))
    assert Network.load(tmp_path).data is None


def test_a_network_of_torchvision_is_served_from_a_file(tmp_path: Path) -> None:
    name, shape = "torchvision/squeezenet1_1", (3, 32, 32)
    model = build_model(name, shape, 4).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    source = {"file": str(tmp_path / "model.pth"), "name": name, "input": shape, "classes": 4}
    parts = cut(ServingRecipe.model_validate({"stages": 3, "model": source}), None, tmp_path)
    x = torch.randn(2, *shape)
    assert len(parts) == 3 and torch.equal(answers(tmp_path, x), model(x))


def test_parameters_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(network(5).state_dict(), tmp_path / "model.safetensors")
    model = {"file": str(tmp_path / "model.safetensors"), "name": "mlp", "hidden": [9]}
    with pytest.raises(UserError, match=r"model\.safetensors: "):
        cut(recipe(model=model, data={"name": "digits"}), None, tmp_path)


@pytest.mark.parametrize(
    ("stages", "why"), [(["9"], "no module"), (["5"], "nothing is computed after"), (40, "stages")]
)
def test_cuts_that_cannot_be_name_their_key_and_why(tmp_path: Path, run: FinishedRun, stages: object, why: str) -> None:
    with pytest.raises(RecipeError, match=why) as refused:
        cut(ServingRecipe.model_validate({"stages": stages}), run, tmp_path)
    assert refused.value.key == "stages"


def test_a_cut_inside_a_residual_connection_is_refused_unless_several_tensors_may_cross(tmp_path: Path) -> None:
    model = build_model("resnet20", (3, 8, 8), 4).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    source = {"file": str(tmp_path / "model.safetensors"), "name": "resnet20", "input": [3, 8, 8], "classes": 4}
    inside = {"stages": ["stages.0.1.conv1"], "model": source}
    with pytest.raises(RecipeError, match="in the middle of a residual connection"):
        cut(ServingRecipe.model_validate(inside), None, tmp_path)
    assert len(cut(ServingRecipe.model_validate({**inside, "single": False}), None, tmp_path)) == 2


def test_a_run_without_that_peers_model_is_named(tmp_path: Path, run: FinishedRun) -> None:
    Checkpoints(run.directory.checkpoints, "peer-1").newest.unlink()
    for file in (run.directory.checkpoints / "peer-1").iterdir():
        file.unlink()
    with pytest.raises(RecipeError, match="no checkpoint of peer-1"):
        cut(recipe(), run, tmp_path)


def test_outputs_are_no_farther_apart_than_the_gain_says() -> None:
    """Of a push in any direction, as small as the one that was measured."""
    model = network(3)
    x = torch.rand(16, 1, 8, 8)
    stages = split(model, ["2", "4"], x)
    gains = estimated_gains(stages, x, 0)
    assert gains[-1] == 1
    tensors = {stages[0].inputs[0].name: x}
    for place, gain in enumerate(gains):
        tensors = stages[place].run(tensors)
        output = tensors
        moved = pushed = {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in tensors.items()}
        for stage in stages[place + 1 :]:
            output, moved = stage.run(output), stage.run(moved)
        assert distance(moved, output) <= gain * distance(pushed, tensors) * 1.01 + 1e-6


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = network(3)
    with torch.no_grad():
        model.get_parameter("1.weight").fill_(float("nan"))
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(UserError, match="stage 0 are not finite"):
        estimated_gains(split(model, ["2"], x), x, 0)
