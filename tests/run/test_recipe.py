"""Recipes: defaults < file < --set, one hash for one experiment, and a line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from decentral.errors import RecipeError
from decentral.run.recipe import Choice, Recipe, describe, find_recipe, load_recipe, recipe_files
from decentral.run.source import read_value

FILE = """\
# What it is about
algorithm: dimat
peers: 6
topology: {name: regular, degree: 4}
model: mlp
data:
  name: digits
  partition:
    name: dirichlet
    alpha: 0.1
training:
  learning_rate: 0.1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


# ---- precedence -----------------------------------------------------------------------------------------------------


def test_the_file_overrides_defaults_and_set_overrides_the_file(file: Path) -> None:
    assert load_recipe(file).training.momentum == 0.9
    assert load_recipe(file).training.learning_rate == 0.1
    assert load_recipe(file, ["training.learning_rate=0.2"]).training.learning_rate == 0.2


def test_a_recipe_is_called_as_its_file_unless_it_says_otherwise(file: Path) -> None:
    assert load_recipe(file).name == "mine"
    assert load_recipe(file, ["name=other"]).name == "other"
    odd = file.rename(file.with_name("my recipe (2).yaml"))
    assert load_recipe(odd).name == "my-recipe-2"


def test_setting_a_choice_replaces_it_with_its_options(file: Path) -> None:
    assert load_recipe(file, ["topology=ring"]).topology == Choice(name="ring")
    chosen = load_recipe(file, ["data.partition={name: shards, shards: 3}"]).data.partition
    assert chosen == Choice(name="shards", options={"shards": 3})


def test_setting_a_key_of_a_choice_refines_it(file: Path) -> None:
    assert load_recipe(file, ["data.partition.alpha=0.3"]).data.partition.options == {"alpha": 0.3}
    assert load_recipe(file, ["model.hidden=[64]"]).model == Choice(name="mlp", options={"hidden": [64]})
    both = load_recipe(file, ["data.partition.name=shards", "data.partition={name: shards}", "data.partition.shards=1"])
    assert both.data.partition == Choice(name="shards", options={"shards": 1})


def test_a_choice_that_the_file_leaves_out_is_refined_from_its_default(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text("peers: 4\n")
    assert load_recipe(path, ["model.hidden=[8]"]).model == Choice(name="mlp", options={"hidden": [8]})


def test_later_sets_win(file: Path) -> None:
    assert load_recipe(file, ["peers=5", "peers=7", "topology=ring"]).peers == 7


# ---- every recipe that is brought along ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", recipe_files(), ids=lambda path: path.stem)
def test_a_brought_recipe_is_valid_short_and_says_how_to_run_it(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe.name == path.stem
    lines = path.read_text().splitlines()
    assert len(lines) < 60
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"decentral run {path.stem}" in header
    assert "Hardware:" in header
    assert f"(seed {recipe.seed})" in header
    assert describe(path)


# ---- one hash for one experiment -----------------------------------------------------------------------------------


def test_what_does_not_change_the_result_does_not_change_the_hash() -> None:
    base = Recipe()
    for changed in (
        {"name": "other"},
        {"device": "cuda:1"},
        {"data": {"root": "/somewhere"}},
        {"simulation": {"latency": 0.5}},
    ):
        assert Recipe.model_validate(changed).hash == base.hash


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"threads": 2}, {"peers": 6}, {"topology": "full"}, {"model": {"name": "mlp", "hidden": [1]}},
     {"data": {"subset": 100}}, {"training": {"momentum": 0.8}}, {"training": {"steps": 1}},
     {"averaging": {"batchnorm": "reestimate"}}, {"deadlines": {"probe": 2}}],
)  # fmt: skip
def test_what_changes_the_result_changes_the_hash_and_is_named(changed: dict[str, object]) -> None:
    base, other = Recipe(), Recipe.model_validate(changed)
    assert base.hash != other.hash
    assert base.differences(other)
    assert base.differences(other)[0].split(".")[0] in changed


def test_differences_name_dotted_keys_of_what_is_hashed_only() -> None:
    other = Recipe.model_validate({"name": "b", "device": "auto", "model": {"name": "mlp", "hidden": [1]}, "seed": 3})
    assert Recipe().differences(other) == ["seed", "model", "model.name", "model.hidden"]
    assert Recipe().differences(Recipe(name="b", device="auto")) == []


def test_writing_a_number_as_whole_or_not_is_the_same_recipe() -> None:
    assert (
        Recipe.model_validate({"deadlines": {"probe": 2}}).hash
        == Recipe.model_validate({"deadlines": {"probe": 2.0}}).hash
    )


def test_the_hash_is_stable() -> None:
    assert Recipe().hash == Recipe.model_validate(json.loads(json.dumps(Recipe().model_dump()))).hash
    assert len(Recipe().hash) == 64


recipes = st.builds(
    lambda **values: Recipe.model_validate(values),
    peers=st.integers(1, 1024),
    seed=st.integers(0, 2**63 - 1),
    device=st.sampled_from(["cpu", "auto", "cuda", "cuda:3"]),
    topology=st.sampled_from(["ring", {"name": "regular", "degree": 4}, {"name": "erdos-renyi", "probability": 0.5}]),
    model=st.dictionaries(
        st.text("abc", min_size=1),
        st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    ).map(lambda options: {**options, "name": "mlp"}),
    training=st.fixed_dictionaries({"learning_rate": st.floats(1e-9, 100)}),
)


@example(Recipe.model_validate({"model": {"name": "mlp", "a": "\x85", "b": "one\u2028two"}}))
@given(recipes)
def test_a_recipe_reads_back_from_its_own_yaml(recipe: Recipe) -> None:
    again = Recipe.model_validate(read_value(recipe.to_yaml(), "here"))
    assert again == recipe
    assert again.hash == recipe.hash
    assert recipe.to_yaml().startswith(f"# hash: {recipe.hash}\n")


def test_from_run_reads_a_recipe_whose_names_nobody_knows(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"model": {"name": "of-a-plugin", "depth": 3}, "algorithm": "mine"})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert Recipe.from_run(tmp_path) == recipe


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Recipe().peers = 3  # type: ignore[misc]


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "line", "problem"),
    [
        ("peers: 5\nalgoritm: dimat\n", "algoritm", 2, "did you mean 'algorithm'"),
        ("data:\n  name: digits\n  partion: iid\n", "data.partion", 3, "did you mean 'partition'"),
        ("training: {learning_rte: 1}\n", "training.learning_rte", 1, "did you mean 'learning_rate'"),
        ("algorithm: dimatt\n", "algorithm", 1, "did you mean 'dimat'"),
        ("peers: 3\nmodel: mpl\n", "model.name", 2, "did you mean 'mlp'"),
        ("peers: 3\nmodel: {name: mpl,\n  hidden: [1]}\n", "model.name", 2, "did you mean 'mlp'"),
        ("model:\n  name: mlp\n  hiden: [64]\n", "model.hiden", 3, "did you mean 'hidden'"),
        ("data: {name: digit}\n", "data.name", 1, "did you mean 'digits'"),
        ("data: {partition: dirchlet}\n", "data.partition.name", 1, "did you mean 'dirichlet'"),
        ("data:\n  partition: {name: dirichlet, alfa: 1}\n", "data.partition.alfa", 2, "did you mean 'alpha'"),
        ("data:\n  partition: {name: iid, alpha: 1}\n", "data.partition.alpha", 2, "no options"),
        ("topology: rign\n", "topology.name", 1, "did you mean 'ring'"),
        ("topology:\n  name: regular\n  degre: 2\n", "topology.degre", 3, "did you mean 'degree'"),
        ("topology: {name: regular, degree: four}\n", "topology", 1, "whole number, not 'four'"),
        ("topology: regular\n", "topology", 1, "needs a value for 'degree'"),
        ("data:\n  partition: dirichlet\n", "data.partition", 2, "needs a value for 'alpha'"),
        ("data:\n  partition: {name: dirichlet, alpha: {a: 1}}\n", "data.partition.alpha", 2, "a number is needed"),
        ("data: {name: image-folder, options: {sice: 3}}\n", "data.options.sice", 1, "did you mean 'size'"),
        ("model: {name: mlp, hidden: 64}\n", "model.hidden", 1, "a list is needed, not 64"),
        ("learner: clasifier\n", "learner", 1, "did you mean 'classifier'"),
        ("peers: 0\n", "peers", 1, "at least 1, not 0"),
        ("peers: 1000000\n", "peers", 1, "at most 1024"),
        ("peers: '5'\n", "peers", 1, "a whole number is needed, not '5'"),
        ("peers: 5.0\n", "peers", 1, "a whole number is needed, not 5.0"),
        ("peers: true\n", "peers", 1, "a whole number is needed, not True"),
        ("peers: null\n", "peers", 1, "a whole number is needed, not None"),
        ("peers: [5]\n", "peers", 1, "a whole number is needed"),
        ("rounds: 0\n", "rounds", 1, "at least 1"),
        ("seed: -1\n", "seed", 1, "at least 0"),
        ("device: tpu\n", "device", 1, "must be cpu, cuda, cuda:N or auto"),
        ("name: ../../etc\n", "name", 1, "match"),
        ("data: digits\n", "data", 1, "keys of its own are needed"),
        ("data: {verify: 1}\n", "data.verify", 1, "true or false is needed, not 1"),
        ("data: {subset: 0}\n", "data.subset", 1, "at least 1"),
        ("training:\n  learning_rate: -0.1\n", "training.learning_rate", 2, "greater than 0"),
        ("training:\n  learning_rate: .nan\n", "training.learning_rate", 2, "finite"),
        ("training:\n  learning_rate: .inf\n", "training.learning_rate", 2, "finite"),
        ("training:\n  learning_rate: fast\n", "training.learning_rate", 2, "a number is needed, not 'fast'"),
        ("training:\n  momentum: 1\n", "training.momentum", 2, "less than 1"),
        ("training:\n  optimizer: sdg\n", "training.optimizer", 2, "did you mean 'sgd'"),
        ("training:\n  initialisation: commn\n", "training.initialisation", 2, "did you mean 'common'"),
        ("training: {steps: 0}\n", "training.steps", 1, "at least 1"),
        ("training: {steps: 1.5}\n", "training.steps", 1, "a whole number is needed, not 1.5"),
        ("averaging: {batchnorm: reestimated}\n", "averaging.batchnorm", 1, "did you mean 'reestimate'"),
        ("matching: {method: weights}\n", "matching.method", 1, "did you mean 'weight'"),
        ("deadlines: {call: 0}\n", "deadlines.call", 1, "greater than 0"),
        ("simulation: {loss: 1}\n", "simulation.loss", 1, "less than 1"),
        ("model: 5\n", "model", 1, "must be a name"),
        ("model: {hidden: [5]}\n", "model", 1, "must have a name"),
        ("model: {name: 5}\n", "model", 1, "must be a word"),
        ("model: {name: mlp, hidden: [.nan]}\n", "model", 1, "finite"),
        ("peers: 5\ntopology: {name: regular, degree: 6}\n", "topology", 2, "at least 7 peers, not 5"),
        ("peers: 5\ntopology: {name: regular, degree: 3}\n", "topology", 2, "even"),
        ("peers: 9\ntopology: {name: erdos-renyi, probability: 0.0}\n", "topology", 2, "no connected graph"),
        ("topology: {name: file, path: /nowhere/edges.txt}\n", "topology", 1, "cannot read"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key_and_line(tmp_path: Path, text: str, key: str, line: int, problem: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert (caught.value.key, caught.value.file, caught.value.line) == (key, str(path), line)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("peers=0", "peers", "at least 1"),
        ("pers=3", "pers", "did you mean 'peers'"),
        ("training.epoch=3", "training.epoch", "did you mean 'epochs'"),
        ("peers.count=3", "peers", "no keys of its own"),
        ("topology.degree=6", "topology", "at least 7 peers"),
        ("model.hiden=[3]", "model.hiden", "did you mean 'hidden'"),
        ("data.partition.alpha.beta=3", "data.partition.alpha", "keys of its own are needed"),
        ("data.options.size=3", "data.options.size", "no options"),
        ("peers", None, "key.path=value"),
        ("=5", None, "key.path=value"),
        ("training..epochs=5", None, "key.path=value"),
        ("peers=[1", None, "expected"),
        ("peers=!!int 5", None, "tags"),
        ("peers=&a 5", None, "anchors"),
        ("model={name: mlp, name: cnn}", "name", "given twice"),
        ("training=5", "training", "keys of its own are needed"),
        ("name=a/b", "name", "match"),
    ],
)  # fmt: skip
def test_a_mistake_after_set_is_named_as_it_was_typed(file: Path, override: str, key: str | None, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, ["peers=5", override])
    assert caught.value.key == key
    if not override.startswith("data.partition.alpha.beta"):  # there the file's own line is at fault
        assert str(caught.value).startswith(f"--set {override}: ")
    assert problem in str(caught.value)


def test_a_topology_that_two_keys_make_impossible_is_named(file: Path) -> None:
    with pytest.raises(RecipeError, match="4-regular graph needs at least 5 peers, not 3"):
        load_recipe(file, ["peers=3"])


def test_torchvision_models_are_taken_by_their_prefix(file: Path) -> None:
    assert load_recipe(file, ["model=torchvision/resnet18"]).model.name == "torchvision/resnet18"


def test_an_unknown_name_offers_the_nearest_recipe() -> None:
    with pytest.raises(RecipeError, match="did you mean 'dimat-digits'"):
        find_recipe("dimat-digts")
    assert find_recipe("dimat-digits").name == "dimat-digits.yaml"


@pytest.mark.parametrize("name", ["missing.yaml", "./missing", "/nowhere/at/all.yaml"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(name)


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
