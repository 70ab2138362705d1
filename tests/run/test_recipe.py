"""Recipes: defaults < file < --set, one hash for one experiment, and a line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from decentral.errors import RecipeError
from decentral.run.choice import Choice
from decentral.run.recipe import Recipe, describe, find_recipe, load_recipe, recipe_files
from decentral.run.serving_recipe import load_any_recipe
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


# ---- every recipe that is brought along ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", recipe_files(), ids=lambda path: path.stem)
def test_a_brought_recipe_is_valid_short_and_says_how_to_run_it(
    path: Path, beside_autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(beside_autoencoder)
    recipe = load_any_recipe(path.stem)
    assert recipe.name == path.stem
    lines = path.read_text().splitlines()
    assert len(lines) < 60
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"decentral {'run' if isinstance(recipe, Recipe) else 'up'} {path.stem}" in header
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
     {"averaging": {"batchnorm": "reestimate"}}, {"averaging": {"rule": "median"}},
     {"attack": {"name": "alie", "peers": [1]}}, {"deadlines": {"probe": 2}}],
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
        ("learner: clasifier\n", "learner.name", 1, "did you mean 'classifier'"),
        ("peers: 0\n", "peers", 1, "at least 1, not 0"),
        ("peers: 1000000\n", "peers", 1, "at most 100000"),
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
        ("averaging:\n  rule: medain\n", "averaging.rule.name", 2, "did you mean 'median'"),
        ("averaging:\n  rule: {name: trimmed-mean, cuts: 0.1}\n", "averaging.rule.cuts", 2, "did you mean 'cut'"),
        ("attack: {name: sign-flop, peers: 0.2}\n", "attack.name", 1, "did you mean 'sign-flip'"),
        ("averaging: {batchnorm: reestimated}\n", "averaging.batchnorm", 1, "did you mean 'reestimate'"),
        ("matching: {method: weights}\n", "matching.method", 1, "did you mean 'weight'"),
        ("matching:\n  statistics: mean\n", "matching.statistics", 2, "there are: average, reestimate"),
        ("matching:\n  repair: auot\n", "matching.repair", 2, "unknown value 'auot'; did you mean 'auto'"),
        ("matching: {repair: 2}\n", "matching.repair", 1, "unknown value 2; there are: auto, false, true"),
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


# ---- the simulator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "learner"),
    [
        ("learner: null\n", Choice(name="null")),
        ("learner: {name: null, samples: 5}\n", Choice(name="null", options={"samples": 5})),
        ("learner: classifier\n", Choice(name="classifier")),
    ],
)
def test_no_learner_is_the_null_learner(tmp_path: Path, text: str, learner: Choice) -> None:
    path = tmp_path / "light.yaml"
    path.write_text(text)
    recipe = load_recipe(path)
    assert recipe.learner == learner
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    assert load_recipe(path, ["learner={name: null, model_bytes: 7}"]).learner.options == {"model_bytes": 7}


def test_an_option_of_the_null_learner_refines_it(tmp_path: Path) -> None:
    path = tmp_path / "light.yaml"
    path.write_text("learner: null\n")
    assert load_recipe(path, ["learner.samples=7"]).learner == Choice(name="null", options={"samples": 7})


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("learner: {name: null, sample: 5}\n", "learner.sample", "did you mean 'samples'"),
        ("learner: {name: null, samples: many}\n", "learner.samples", "a whole number is needed"),
        ("learner: {name: classifier, epochs: 5}\n", "learner.epochs", "unknown option"),
        ("simulation: {trace: sinthetic}\n", "simulation.trace.name", "did you mean 'synthetic'"),
        ("simulation: {trace: {name: synthetic, routin: 2}}\n", "simulation.trace.routin", "did you mean 'routing'"),
        ("simulation: {churn: {untill: 0.5}}\n", "simulation.churn.untill", "did you mean 'until'"),
        ("simulation: {churn: {until: 1.5}}\n", "simulation.churn.until", "at most 1"),
        ("simulation: {churn: {crash_per_minute: -1}}\n", "simulation.churn.crash_per_minute", "at least 0"),
        ("simulation: {churn: {return_after: 0}}\n", "simulation.churn.return_after", "greater than 0"),
    ],
)
def test_a_mistake_in_the_simulation_is_named(tmp_path: Path, text: str, key: str, problem: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.key == key and problem in str(caught.value) and caught.value.line == 1


def test_churn_and_trace_are_set_from_the_command_line_and_not_hashed(file: Path) -> None:
    changed = load_recipe(file, ["simulation.churn.crash_per_minute=5.0", "simulation.trace.name=synthetic"])
    assert changed.simulation.churn is not None and changed.simulation.churn.crash_per_minute == 5.0
    assert changed.simulation.trace == Choice(name="synthetic")
    assert changed.hash == load_recipe(file).hash


@pytest.mark.parametrize("setting", ["averaging.rule=median", "averaging.outer=nesterov", "exchange.compression=top-k"])
def test_all_are_clients_of_fedavg_unless_a_number_is_said(file: Path, setting: str) -> None:
    everybody, few = (load_recipe(file, [setting, "algorithm=fedavg", f"fedavg.clients={n}"]) for n in ("null", "4"))
    assert (everybody.fedavg.clients, few.fedavg.clients) == (None, 4)
    assert few.draws and not everybody.draws and everybody.hash != few.hash
    other = load_recipe(file, ["algorithm=dpsgd", "fedavg.clients=100"])
    assert not other.draws, "read by that algorithm alone"
