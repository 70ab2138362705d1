"""`--set key.path=value`: a value replaced or refined, and a mistake named as it was typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.errors import RecipeError
from decentral.run.choice import Choice
from decentral.run.recipe import load_recipe
from decentral.run.serving_recipe import ServingRecipe, load_any_recipe

FILE = """\
peers: 6
topology: {name: regular, degree: 4}
model: mlp
data:
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


def test_a_key_of_what_is_null_by_default_needs_a_name_first(file: Path) -> None:
    with pytest.raises(RecipeError, match="must have a name") as caught:
        load_recipe(file, ["attack.peers=0.2"])
    assert str(caught.value).startswith("--set attack.peers=0.2: attack")
    both = load_recipe(file, ["algorithm=dpsgd", "attack.name=sign-flip", "attack.peers=[1]"])
    assert both.attackers == (1,)


def test_setting_an_entry_of_a_table_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "serves.yaml"
    path.write_text("stages: 2\nmodel: {recipe: dimat-digits}\nliars: {stage-0-a: slow}\n")
    recipe = load_any_recipe(path, ["liars.stage-1-b=crash", "policy.audits=0.5"])
    assert isinstance(recipe, ServingRecipe)
    assert recipe.liars == {"stage-0-a": Choice(name="slow"), "stage-1-b": Choice(name="crash")}
    assert recipe.policy == {"audits": 0.5}
