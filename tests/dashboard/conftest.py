"""A folder of a run that somebody else is writing, and one of a cluster that serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from decentral.run.directory import RunDirectory, ServingDirectory
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """Of three peers, which a launcher holds."""
    recipe = Recipe.model_validate({"name": "some", "peers": 3, "rounds": 4})
    with RunDirectory.create(tmp_path / "run", recipe, "local") as made:
        yield made


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingDirectory]:
    """Of three stages by three nodes each, one of which is told to lie."""
    values = {"name": "served", "stages": 3, "replicas": 3, "liars": {"stage-1-b": "wrong-output"}}
    with ServingDirectory.create(tmp_path / "served", ServingRecipe.model_validate(values), "local") as made:
        yield made
