"""What a recipe says of circuits: an SRS and, if need be, how they are made; nothing of it by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.errors import RecipeError
from decentral.run.proving import Proving
from decentral.run.serving_recipe import ServingRecipe, load_any_recipe
from decentral.run.source import read_value

START = "stages: 3\nmodel: {recipe: dimat-digits}\n"


def test_the_srs_alone_is_enough() -> None:
    assert (
        Proving.model_validate("local-test")
        == Proving.model_validate({"srs": "local-test"})
        == Proving(srs="local-test")
    )
    assert Proving(srs="local-test").file is Proving(srs="ceremony").file is None
    assert Proving(srs="kzg17.srs").file == "kzg17.srs"


def test_nothing_is_proved_unless_the_recipe_says_so(tmp_path: Path) -> None:
    recipe = load_any_recipe("serve-digits")
    assert isinstance(recipe, ServingRecipe) and recipe.proofs is None
    for setting in ("proofs=local-test", "proofs.srs=local-test", "proofs={srs: local-test}"):
        changed = load_any_recipe("serve-digits", [setting])
        assert isinstance(changed, ServingRecipe) and changed.proofs == Proving(srs="local-test")
        assert changed.hash == recipe.hash and not recipe.differences(changed), "answers are the same without proofs"


def test_who_offers_proofs_may_have_clients_that_want_them(tmp_path: Path) -> None:
    wanted = load_any_recipe("serve-digits", ["proofs=local-test", "policy.require=[consensus, zk]"])
    assert isinstance(wanted, ServingRecipe) and wanted.default_policy().proved
    with pytest.raises(RecipeError, match="which this cluster does not offer"):
        load_any_recipe("serve-digits", ["policy.require=[consensus, zk]"])


def test_it_reads_back_from_its_own_yaml() -> None:
    recipe = ServingRecipe.model_validate({"stages": 2, "proofs": {"srs": "local-test", "base": 16, "legs": 8}})
    assert ServingRecipe.model_validate(read_value(recipe.to_yaml(), "here")) == recipe


@pytest.mark.parametrize(
    ("text", "key", "line", "problem"),
    [
        ("proofs: 3\n", "proofs", 3, "the file of an SRS, or keys with srs, not 3"),
        ("proofs:\n  scale: 7\n", "proofs", 3, "needs srs"),
        ("proofs:\n  srs: local-test\n  scales: 7\n", "proofs.scales", 5, "did you mean 'scale'"),
        ("proofs:\n  srs: local-test\n  scale: 30\n", "proofs.scale", 5, "at most 20"),
        ("proofs:\n  srs: local-test\n  legs: 20\n", "proofs.legs", 5, "more than the 126 bits"),
        ("proofs:\n  srs: local-test\n  parameters: private\n", "proofs.parameters", 5, "unknown value 'private'"),
        ("proofs:\n  srs: nowhere.srs\n", "proofs.srs", 4, "there is no file nowhere.srs"),
        ("proofs: lokal-test\n", "proofs.srs", 3, "must be local-test, ceremony or the file of an SRS"),
    ],
)
def test_a_mistake_names_key_file_and_line(tmp_path: Path, text: str, key: str, line: int, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(START + text)
    with pytest.raises(RecipeError) as refused:
        load_any_recipe(file)
    assert problem in refused.value.problem
    assert (refused.value.key, refused.value.file, refused.value.line) == (key, str(file), line)
