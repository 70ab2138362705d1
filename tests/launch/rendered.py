"""The examples in cluster/examples, and what of them may change with every key that recipes get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from decentral import locate
from decentral.launch.render import Setting, rendered
from decentral.run.recipe import Recipe, load_recipe
from decentral.run.serving_recipe import ServingRecipe, load_any_recipe

UNTRAINED = """\
stages: ["2", "4"]
replicas: 1
policy: {{replicas: 1, quorum: 1, faulty: 0}}
model: {{file: {file}, name: mlp, hidden: [6, 5]}}
data: {{name: digits}}
"""
SMALL = ("peers=2",)
EXAMPLES = {
    "dimat-digits.compose.yaml": ("dimat-digits", SMALL, "compose"),
    "dimat-digits.kuberay.yaml": ("dimat-digits", SMALL, "kuberay"),
    "dimat-digits.kubernetes.yaml": ("dimat-digits", SMALL, "kubernetes"),
    "dimat-digits.sbatch": ("dimat-digits", SMALL, "slurm"),
    "serve-digits.kubernetes.yaml": ("serve-digits", (), "kubernetes"),
}
"""Each as `decentral render RECIPE --set ... --to TARGET` prints it: after a change of a target, print it again."""
RECIPE = re.compile(r"^( *)# hash: [0-9a-f]{64}\n(?:\1.*\n|\n)*?(?=(?! *$)(?!\1)|---|END_OF_RECIPE|\Z)", re.MULTILINE)
HASH = re.compile(r"\(hash [0-9a-f]{16}\)")


def example(name: str) -> tuple[str, str]:
    """As it lies there, and as it is rendered now; without the recipe, of which only its place is left."""
    recipe, overrides, target = EXAMPLES[name]
    now = rendered(load_any_recipe(recipe, overrides), target, Setting())
    before = (Path(locate.folder("cluster")) / "examples" / name).read_text()
    return tuple(HASH.sub("(hash)", RECIPE.sub(r"\1RECIPE\n", text)) for text in (before, now))  # type: ignore[return-value]


def training(*overrides: str) -> Recipe:
    return load_recipe("dimat-digits", ["peers=2", *overrides])


def serving(*overrides: str) -> ServingRecipe:
    recipe = load_any_recipe("serve-digits", overrides)
    assert isinstance(recipe, ServingRecipe)
    return recipe


def objects(text: str) -> dict[str, dict[str, Any]]:
    """A file of Kubernetes, by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all(text)}


def untrained(folder: Path) -> ServingRecipe:
    """Three stages of a model that nobody has trained, each computed by one node."""
    import torch

    from decentral.models.catalogue import build_model

    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict(), folder / "model.pth")
    (folder / "small.yaml").write_text(UNTRAINED.format(file=folder / "model.pth"))
    recipe = load_any_recipe(folder / "small.yaml")
    assert isinstance(recipe, ServingRecipe)
    return recipe
