"""Recipes that serve a model: one source, cuts, replicas enough; a line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import RecipeError
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe, load_recipe, read_recipe
from decentral.run.serving_recipe import ServingRecipe, any_recipe, load_any_recipe
from decentral.run.source import read_value

FILE = """\
# What it is about
stages: 3
replicas: 3
model: {recipe: dimat-digits}
policy:
  quorum: 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def serving(path: Path, *settings: str) -> ServingRecipe:
    recipe = load_any_recipe(path, settings)
    assert isinstance(recipe, ServingRecipe)
    return recipe


def finished_run(path: Path, accuracies: list[float | None], rounds: int = 2, ended: int = 2) -> Path:
    """As a run leaves it, without its models."""
    recipe = Recipe.model_validate({"peers": len(accuracies), "rounds": rounds})
    with RunDirectory.create(path, recipe, "local") as run:
        summary = {"rounds": ended, "accuracy": {"per_peer": accuracies}}
        run.write(run.summary_file, json.dumps(summary).encode())
    return path


# ---- which kind ----------------------------------------------------------------------------------------------------


def test_a_recipe_with_stages_serves_and_any_other_trains(file: Path) -> None:
    assert isinstance(load_any_recipe(file), ServingRecipe)
    assert isinstance(load_any_recipe("dimat-digits"), Recipe)
    assert load_any_recipe("dimat-digits") == load_recipe("dimat-digits")


def test_where_training_is_meant_a_serving_recipe_is_refused_with_the_command_to_use(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"decentral up .*mine\.yaml --dir DIR") as refused:
        load_recipe(file)
    assert (refused.value.key, refused.value.line) == ("stages", 2)


# ---- who computes what ---------------------------------------------------------------------------------------------


def test_every_stage_has_its_replicas_and_the_clients_own_have_none(file: Path) -> None:
    recipe = serving(file, "local=1", "stages=[a, b]")
    assert recipe.parts == ("stage-0", "stage-1", "stage-2")
    assert recipe.node_names == ("stage-1-a", "stage-1-b", "stage-1-c", "stage-2-a", "stage-2-b", "stage-2-c")
    assert [replica.stage for replica in recipe.nodes] == [1, 1, 1, 2, 2, 2]


@given(st.integers(1, 9), st.integers(1, 26), st.data())
def test_nodes_are_as_many_as_stages_of_peers_times_replicas(stages: int, replicas: int, data: st.DataObject) -> None:
    local = data.draw(st.integers(0, stages - 1))
    recipe = ServingRecipe.model_validate({"stages": stages, "replicas": replicas, "local": local})
    assert len(set(recipe.node_names)) == len(recipe.nodes) == (stages - local) * replicas
    assert {replica.stage for replica in recipe.nodes} == set(range(local, stages))


def test_clients_ask_for_what_the_recipe_says_and_else_for_its_tolerance(file: Path) -> None:
    assert serving(file, "tolerance=0.001").default_policy().tolerance == 0.001
    assert serving(file, "policy.tolerance=0.01").default_policy().tolerance == 0.01
    assert serving(file, "policy.leakage=0.5").default_policy().leakage == 0.5


def test_noise_is_a_budget_of_the_clients_own_stages(file: Path) -> None:
    assert serving(file).budget() is None
    noise = "noise={mechanism: laplace, epsilon: 2, clip: 1}"
    budget = serving(file, "local=1", noise).budget()
    assert budget is not None and (budget.mechanism, budget.epsilon) == ("laplace", 2.0)
    with pytest.raises(RecipeError, match="local must be at least 1"):
        serving(file, noise)


def test_liars_are_named_and_may_have_options(file: Path) -> None:
    recipe = serving(file, "liars.stage-1-c=wrong-output", "liars.stage-0-a={name: slow, seconds: 2}")
    assert recipe.liars["stage-1-c"].name == "wrong-output"
    assert recipe.liars["stage-0-a"].options == {"seconds": 2}
    assert recipe.liars_words is not None and "stage-1-c by wrong-output" in recipe.liars_words
    assert "simulated" in recipe.liars_words
    assert serving(file).liars_words is None


# ---- hash and text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed", [{"replicas": 4}, {"stages": ["a", "b"]}, {"liars": {"stage-0-a": "slow"}}, {"local": 1}, {"seed": 1}]
)
def test_what_is_served_decides_the_hash(changed: dict[str, object]) -> None:
    base = ServingRecipe.model_validate({"stages": 3})
    other = ServingRecipe.model_validate({"stages": 3, **changed})
    assert other.hash != base.hash
    assert base.differences(other)[0].split(".")[0] in changed


def test_where_it_runs_and_where_data_lies_do_not() -> None:
    base = ServingRecipe.model_validate({"stages": 3, "data": {"name": "digits"}})
    other = {"name": "other", "device": "cuda", "stages": 3, "data": {"name": "digits", "root": "/somewhere"}}
    assert ServingRecipe.model_validate(other).hash == base.hash
    assert ServingRecipe.model_validate({"stages": 3}).hash != base.hash


@given(
    st.fixed_dictionaries(
        {
            "stages": st.integers(1, 9) | st.lists(st.text("ab.1", min_size=1), max_size=3),
            "model": st.sampled_from(
                [{"recipe": "x"}, {"run": "r", "peer": 3}, {"file": "f", "name": "mlp", "hidden": [3]}]
            ),
            "liars": st.dictionaries(st.text("abc", min_size=1), st.sampled_from(["slow", {"name": "slow", "s": 1}])),
            "policy": st.sampled_from([{}, {"replicas": 3}, {"require": ["consensus"]}]),
            "tolerance": st.floats(0, 1),
        }
    )
)
def test_a_recipe_reads_back_from_its_own_yaml(values: dict[str, object]) -> None:
    recipe = ServingRecipe.model_validate(values)
    again = ServingRecipe.model_validate(read_value(recipe.to_yaml(), "here"))
    assert again == recipe and again.hash == recipe.hash


# ---- bad input -----------------------------------------------------------------------------------------------------

START = "stages: 3\nmodel: {recipe: dimat-digits}\n"


@pytest.mark.parametrize(
    ("text", "key", "line", "problem"),
    [
        ("stages: 3\n", "model", None, "has no source"),
        ("stages: 0\nmodel: {recipe: dimat-digits}\n", "stages", 1, "how many there are, or a list"),
        ("stages: [a, 2]\nmodel: {recipe: dimat-digits}\n", "stages", 1, "how many there are, or a list"),
        (START + "replica: 3\n", "replica", 3, "did you mean 'replicas'"),
        (START + "replicas: 2\n", "replicas", 3, "the policy wants 3 replicas of stage-0; there are 2"),
        (START + "replicas: 30\n", "replicas", 3, "at most 26"),
        (START + "policy: {replicas: 5, faulty: 2, quorum: 3}\n", "replicas", None, "wants 5 replicas"),
        (START + "policy:\n  quorom: 2\n", "policy.quorom", 4, "did you mean 'quorum'"),
        (START + "policy:\n  quorum: 3\n", "policy.quorum", 4, "leave 2 for a quorum of 3"),
        (START + "policy:\n  require: [zk]\n", "policy.require", 4, "which this cluster does not offer"),
        (START + "local: 3\n", "local", 3, "leave none for peers"),
        (START + "tolerance: 2.0\n", "tolerance", 3, "at most 1"),
        (START + "liars: {stage-9-a: slow}\n", "liars.stage-9-a", 3, "no such node"),
        (START + "liars:\n  stage-0-a: slwo\n", "liars.stage-0-a.name", 4, "did you mean 'slow'"),
        (START + "local: 1\nnoise: {mechanism: gauss, epsilon: 1, clip: 1}\n", "noise", 4, "unknown mechanism"),
        (START + "data: {name: digit}\n", "data.name", 3, "did you mean 'digits'"),
        (START + "device: tpu\n", "device", 3, "must be cpu, cuda"),
        ("stages: 3\nmodel: digits\n", "model", 2, "keys of its own are needed"),
        ("stages: 3\nmodel: {recipe: dimat-digit}\n", "model.recipe", 2, "did you mean 'dimat-digits'"),
        ("stages: 3\nmodel: {recipe: serve-digits}\n", "model.recipe", 2, "serves a model"),
        ("stages: 3\nmodel: {recipe: diffusion-digits}\n", "model.recipe", 2, "are served by"),
        ("stages: 3\nmodel:\n  recipe: dimat-digits\n  rnu: here\n", "model.rnu", 4, "did you mean 'run'"),
        ("stages: 3\nmodel: {recipe: dimat-digits, name: mlp}\n", "model.name", 2, "is for a file"),
        ("stages: 3\nmodel: {run: nowhere}\n", "model.run", 2, "holds no run"),
        ("stages: 3\nmodel: {run: here, file: a.pth, name: mlp}\n", "model.file", 2, "not from both"),
        ("stages: 3\nmodel: {file: a.pth}\n", "model.name", 2, "needs the name of its network"),
        ("stages: 3\nmodel: {file: a.pth, name: mpl}\n", "model.name", 2, "did you mean 'mlp'"),
        ("stages: 3\nmodel: {file: a.pth, name: unet}\n", "model.name", 2, "answers with images"),
        ("stages: 3\nmodel: {file: a.pth, name: mlp, hiden: [1]}\n", "model.hiden", 2, "did you mean 'hidden'"),
        ("stages: 3\nmodel: {file: a.pth, name: mlp}\n", "model", 2, "what its network takes"),
        ("stages: 3\nmodel: {file: a.pth, name: mlp, peer: 1}\n", "model.peer", 2, "of no peer"),
        ("stages: 3\ndata: {}\nmodel: {file: a.pkl, name: mlp}\n", "model.file", 3, "must end in one of"),
        ("stages: 3\ndata: {}\nmodel: {file: a.pth, name: mlp}\n", "model.file", 3, "there is no file"),
        ("stages: 3\nmodel: {file: a.pth, name: mlp, input: [0], classes: 2}\n", "model.input", 2, "such as [3, 32"),
    ],
)
def test_a_mistake_names_key_file_and_line(tmp_path: Path, text: str, key: str, line: int | None, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_any_recipe(file)
    assert problem in refused.value.problem
    assert (refused.value.key, refused.value.file, refused.value.line) == (key, str(file), line)


def test_a_run_that_has_finished_is_taken_and_others_are_named(tmp_path: Path, file: Path) -> None:
    done = finished_run(tmp_path / "done", [0.5, 0.9])
    assert serving(file, f"model.run={done}").model.run == str(done)
    with pytest.raises(RecipeError, match="peers 0 to 1"):
        serving(file, f"model.run={done}", "model.peer=2")
    stopped = finished_run(tmp_path / "stopped", [0.5, 0.9], rounds=5, ended=3)
    with pytest.raises(RecipeError, match="ended in round 3 of 5"):
        serving(file, f"model.run={stopped}")


def test_once_the_stages_are_there_their_source_may_be_gone(file: Path) -> None:
    settings = ["model.run=gone"]
    with pytest.raises(RecipeError, match="holds no run"):
        any_recipe(read_recipe(file), settings)
    recipe = any_recipe(read_recipe(file), settings, prepared=True)
    assert isinstance(recipe, ServingRecipe) and recipe.model.run == "gone"
