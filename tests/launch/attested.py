"""A small model that nobody has trained, in a folder whose nodes show evidence; a copy of the package to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from decentral import locate
from decentral.models.catalogue import build_model
from decentral.run.serving_recipe import ServingRecipe, load_any_recipe

RECIPE = """\
stages: ["2"]
replicas: 1
policy: {{replicas: 1, quorum: 1, faulty: 0}}
model: {{file: {file}, name: mlp, hidden: [6, 5]}}
data: {{name: digits}}
attestation: {attestation}
"""


def recipe_in(folder: Path, attestation: str = "required") -> ServingRecipe:
    """Of two nodes; `small.yaml` in the folder."""
    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict(), folder / "model.pth")
    (folder / "small.yaml").write_text(RECIPE.format(file=folder / "model.pth", attestation=attestation))
    recipe = load_any_recipe(folder / "small.yaml")
    assert isinstance(recipe, ServingRecipe)
    return recipe


def copied(folder: Path) -> Path:
    """The package and its programs, to be imported from there (PYTHONPATH)."""
    without = shutil.ignore_patterns("__pycache__")
    for name, source in (("decentral", locate.PACKAGE), ("nodes", locate.folder("nodes"))):
        shutil.copytree(source, folder / name, ignore=without)
    shutil.copytree(locate.folder("recipes"), folder / "recipes", ignore=without)
    (folder / "pyproject.toml").write_text("")  # by which the package knows a checkout
    return folder
