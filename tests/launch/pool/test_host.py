"""A worker answers for its learners what they would have answered, and tells of what went wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decentral.errors import UserError
from decentral.launch.assembly import own_learner
from decentral.launch.pool.host import Host, raised
from decentral.launch.pool.packing import pack, unpack
from decentral.run.recipe import Recipe, load_recipe
from decentral.training.activations import NotFinite

SMALL = ("peers=3", "model={name: mlp, hidden: [8]}", "data.subset=120")
RECIPE = load_recipe("dimat-digits", SMALL)


def asked(host: Host, what: str, index: int = 0, **arguments: Any) -> Any:
    return unpack(host.answer(pack([what, index, arguments])))


def opened(recipe: Recipe = RECIPE) -> Host:
    host = Host()
    given = {"recipe": recipe.model_dump(mode="json"), "digest": recipe.hash, "plugins": []}
    assert asked(host, "open", **given) == {"result": None}
    return host


def test_what_never_changes_of_a_learner_is_told_when_it_is_made():
    facts, learner = asked(opened(), "assemble", 1)["result"], own_learner(RECIPE, 1)
    assert facts["samples"] == learner.samples and facts["classes"] == learner.class_counts()
    assert facts["looked_at"] == learner.matching_samples and facts["published"] is False
    assert {name: shape for name, _, shape in facts["taken"]} == {
        name: list(tensor.shape) for name, tensor in learner.view().items()
    }


def test_learners_of_one_worker_are_as_if_they_were_alone():
    host, alone = opened(), {index: own_learner(RECIPE, index) for index in (0, 2)}
    for index in alone:
        asked(host, "assemble", index)
    for round in (1, 2):
        for index, learner in alone.items():
            asked(host, "train", index, round=round, drift=None)
            learner.train(round)
    for index, learner in alone.items():
        state = asked(host, "parameters", index)["result"]
        assert all(torch.equal(tensor, state[name]) for name, tensor in learner.parameters().items())


def test_a_learner_that_is_made_again_begins_anew():
    host = opened()
    asked(host, "assemble")
    start = asked(host, "parameters")["result"]
    asked(host, "train", round=1, drift=None)
    asked(host, "assemble")
    again = asked(host, "parameters")["result"]
    assert all(torch.equal(tensor, again[name]) for name, tensor in start.items())


def test_another_reading_of_the_recipe_is_refused():
    answer = asked(Host(), "open", recipe=RECIPE.model_dump(mode="json"), digest="another", plugins=[])
    assert answer["error"] == "UserError" and "another version" in answer["said"]


def test_a_plugin_is_loaded_before_the_recipe_is_used(tmp_path):
    file = tmp_path / "pooled_plugin.py"
    file.write_text("from pathlib import Path\nPath(__file__).with_suffix('.loaded').touch()\n")
    answer = asked(Host(), "open", recipe=RECIPE.model_dump(mode="json"), digest=RECIPE.hash, plugins=[str(file)])
    assert answer == {"result": None} and file.with_suffix(".loaded").exists()
    with pytest.raises(UserError, match="no such file"):
        raise raised(asked(Host(), "open", recipe={}, digest="", plugins=[str(tmp_path / "nowhere.py")]))


@pytest.mark.parametrize(
    ("what", "arguments", "kind", "said"),
    [
        ("load", {"parameters": {}}, ValueError, "is missing"),
        ("repairs", {"repair": "auto"}, None, ""),
        ("dance", {}, ValueError, "dance"),
        ("train", {}, TypeError, "round"),
    ],
)
def test_errors_are_of_the_same_kind_and_words(what, arguments, kind, said):
    host = opened()
    asked(host, "assemble")
    answer = asked(host, what, **arguments)
    if kind is None:
        assert "error" not in answer
        return
    error = raised(answer)
    assert type(error) is kind and said in str(error)


def test_a_model_that_is_not_finite_is_told_by_its_place():
    host = opened()
    asked(host, "assemble")
    good = asked(host, "parameters")["result"]
    bad = {name: tensor * torch.nan for name, tensor in good.items()}
    how = {"method": "activation", "statistics": "reestimate", "repair": False}
    answer = asked(host, "merge", others=[good, bad], weights=[0.5, 0.25, 0.25], **how)
    error = raised(answer)
    assert isinstance(error, NotFinite) and error.network == 1
    assert str(error) == str(NotFinite(error.problem, 1))


def test_an_error_of_no_kind_that_we_raise_comes_with_its_trace():
    error = raised(asked(opened(), "view", 7))
    assert type(error) is RuntimeError and "KeyError" in str(error) and "Traceback" in str(error)
