"""What the page says of a recipe is what the recipe says."""

from __future__ import annotations

from typing import Any

import pytest

from decentral.dashboard.source import about_serving, about_training
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe


def training(**values: Any) -> Recipe:
    return Recipe.model_validate({"name": "some", "peers": 6, **values})


def test_of_peers_that_train_the_graph_is_shown() -> None:
    about = about_training(training(), "local", "runs/some-1")
    assert sorted(about.edges) == [(0, 1), (0, 5), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert about.head["hash"] == training().hash
    assert about.head["place"] == "as local processes"
    assert not about.head["simulated"]
    assert not about.draws


def test_where_samples_are_drawn_there_is_no_graph() -> None:
    about = about_training(training(algorithm="modest"), "sim", "runs/some-1")
    assert about.draws
    assert about.edges == []
    assert about.head["simulated"]


def test_attackers_are_named_and_set_aside() -> None:
    about = about_training(training(attack={"name": "sign-flip", "peers": [2]}), "local", "")
    assert about.aside == (2,)
    assert "peer 2" in about.head["attack"]


@pytest.mark.parametrize("liars", [{}, {"stage-1-b": "wrong-output"}])
def test_of_peers_that_serve_the_nodes_have_their_names(liars: dict[str, str]) -> None:
    recipe = ServingRecipe.model_validate({"name": "s", "stages": 2, "replicas": 2, "liars": liars})
    about = about_serving(recipe, "local", "")
    assert about.names == ("stage-0-a", "stage-0-b", "stage-1-a", "stage-1-b")
    assert ("stage-1-b" in (about.head["attack"] or "")) is bool(liars)
