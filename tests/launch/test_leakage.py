"""A prepared folder is measured as its clients use it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decentral.errors import UserError
from decentral.launch import leakage
from decentral.launch.prepare import prepare
from decentral.models.catalogue import build_model
from decentral.run.serving_recipe import ServingRecipe
from decentral.serving.stages.leakage import measure
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.leakage import check_leakage


def recipe_of(folder: Path, **settings: object) -> ServingRecipe:
    torch.manual_seed(0)
    save_file(build_model("mlp", (1, 8, 8), 10, hidden=[12, 6]).state_dict(), folder / "model.safetensors")
    model = {"file": str(folder / "model.safetensors"), "name": "mlp", "options": {"hidden": [12, 6]}}
    return ServingRecipe.model_validate({"model": model, "stages": ["2"], "seed": 3, **settings})


def test_it_knows_the_clients_stages_its_noise_and_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {"mechanism": "laplace", "epsilon": 1.0, "clip": 2.0}
    recipe = recipe_of(tmp_path, local=1, noise=noise, data={"name": "digits"}, policy={"leakage": 0.9})
    with pytest.raises(UserError, match="nobody has measured"):
        prepare(recipe, tmp_path / "here")
    cluster = prepare(recipe, tmp_path / "here", bounded=False)
    asked: dict[str, object] = {}

    def quick(*arguments: object, **options: object) -> object:
        asked.update(options)
        return measure(*arguments, **options, own=40, others=40, epochs=1)  # type: ignore[arg-type]

    monkeypatch.setattr(leakage, "measure", quick)
    measured = leakage.measure_cluster(cluster)
    assert asked == {"names": ("stage-0", "stage-1"), "local": 1, "budget": recipe.budget(), "seed": 3}
    measured.save(cluster.path)
    parts = Anchors.load(cluster.path / FILE).parts
    assert check_leakage(cluster.path, parts, recipe.default_policy(), str(recipe.budget())) == measured
    assert prepare(recipe, tmp_path / "here").path == cluster.path


def test_a_model_whose_data_nobody_knows_cannot_be_attacked(tmp_path: Path) -> None:
    model = {**recipe_of(tmp_path).model.model_dump(), "input": (1, 8, 8), "classes": 10}
    cluster = prepare(ServingRecipe.model_validate({"model": model, "stages": ["2"]}), tmp_path / "here")
    with pytest.raises(UserError, match="has to name a dataset"):
        leakage.measure_cluster(cluster)
