"""What a recipe says of evidence of machines: nothing by default, a word, or what is to be played."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.attestation.report import Technology
from decentral.errors import RecipeError
from decentral.run.attesting import MODES, Attesting
from decentral.run.serving_recipe import ServingRecipe, load_any_recipe
from decentral.run.source import read_value
from decentral.trust.evidence import Kind

START = "stages: 3\nmodel: {recipe: dimat-digits}\n"


def loaded(*settings: str) -> ServingRecipe:
    recipe = load_any_recipe("serve-digits", settings)
    assert isinstance(recipe, ServingRecipe)
    return recipe


def test_nodes_show_nothing_unless_the_recipe_says_so() -> None:
    assert not loaded().attestation.shown
    assert [loaded(f"attestation={mode}").attestation.shown for mode in MODES] == [False, True, True]
    assert [loaded(f"attestation={mode}").attestation.required for mode in MODES] == [False, False, True]


def test_what_is_played_can_be_said_and_is_tdx_otherwise() -> None:
    assert loaded("attestation=offered").attestation.technology is Technology.TDX
    for settings in (["attestation={mode: offered, simulate: sev-snp}"], OWN_KEYS):
        assert loaded(*settings).attestation == Attesting(mode="offered", simulate="sev-snp")
    assert loaded(*OWN_KEYS).attestation.technology is Technology.SNP


OWN_KEYS = ["attestation.mode=offered", "attestation.simulate=sev-snp"]


def test_evidence_changes_nothing_of_what_is_computed() -> None:
    plain, shown = loaded(), loaded("attestation=required")
    assert shown.hash == plain.hash and not plain.differences(shown)


def test_clients_want_it_where_it_is_required_or_their_policy_says_so() -> None:
    assert Kind.ATTESTATION not in loaded("attestation=offered").default_policy().require
    wanted = loaded("attestation=required").default_policy()
    assert wanted.require == {Kind.CONSENSUS, Kind.ATTESTATION} and not wanted.allow_simulated
    asked = loaded("attestation=offered", "policy.require=[consensus, attestation]").default_policy()
    assert asked == wanted
    with pytest.raises(RecipeError, match="wants attestation, which this cluster does not offer"):
        loaded("policy.require=[consensus, attestation]")


@pytest.mark.parametrize("settings", [[], ["attestation=required"], OWN_KEYS], ids=str)
def test_it_reads_back_from_its_own_yaml(settings: list[str]) -> None:
    recipe = loaded(*settings)
    assert ServingRecipe.model_validate(read_value(recipe.to_yaml(), "here")) == recipe


@pytest.mark.parametrize(
    ("text", "key", "line", "problem"),
    [
        ("attestation: always\n", "attestation", 3, "must be none, offered, required, or keys with mode, not 'always'"),
        ("attestation: 3\n", "attestation", 3, "or keys with mode, not 3"),
        ("attestation:\n  simulate: tdx\n", "attestation", 3, "needs mode: none, offered, required"),
        ("attestation:\n  mode: offerred\n", "attestation.mode", 4, "did you mean 'offered'"),
        ("attestation:\n  mode: offered\n  simulate: sgx\n", "attestation.simulate", 5, "unknown value 'sgx'"),
        ("attestation:\n  mode: offered\n  simulated: tdx\n", "attestation.simulated", 5, "did you mean 'simulate'"),
    ],
)
def test_a_mistake_names_key_file_and_line(tmp_path: Path, text: str, key: str, line: int, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(START + text)
    with pytest.raises(RecipeError) as refused:
        load_any_recipe(file)
    assert problem in refused.value.problem
    assert (refused.value.key, refused.value.file, refused.value.line) == (key, str(file), line)
