"""Names with options: one short form, one long, and the same value either way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from decentral.run.choice import Attack, Choice

keys = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=8).filter(
    lambda key: key not in Attack.model_fields
)
values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
free = st.dictionaries(keys, values | st.lists(values, max_size=3), max_size=4)


@given(st.text(min_size=1), free)
def test_a_choice_reads_back_from_what_it_is_written_as(name: str, options: dict[str, object]) -> None:
    choice = Choice.model_validate({"name": name, **options})
    assert (choice.name, choice.options) == (name, options)
    assert Choice.model_validate(choice.model_dump()) == choice
    assert isinstance(choice.model_dump(), dict if options else str)


def test_a_name_alone_is_a_choice_without_options() -> None:
    assert Choice.model_validate("ring") == Choice(name="ring") == Choice.model_validate({"name": "ring"})
    assert Choice.model_validate({"name": "ring", "options": {"a": 1}}).options == {"a": 1}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "must be a name, or a mapping with a name, not 5"),
        ({"degree": 4}, "must have a name"),
        ({"name": 5}, "must be a word, not 5"),
        ({"name": "a", "b": [{"c": float("nan")}]}, "b must be finite"),
    ],
)
def test_what_is_no_choice_is_refused_in_words(value: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Choice.model_validate(value)


@given(free)
def test_who_attacks_and_when_are_no_options_of_the_attack(options: dict[str, object]) -> None:
    attack = Attack.model_validate({"name": "mine", "peers": [3, 1], "from_round": 2, **options})
    assert (attack.peers, attack.from_round, attack.options) == ((3, 1), 2, options)
    assert Attack.model_validate(attack.model_dump()) == attack
    assert Attack.model_validate({"name": "mine", "peers": 0.5}).from_round == 1


@pytest.mark.parametrize("peers", ["two", [0.5], [True], 3, None, {"a": 1}])
def test_attackers_are_a_share_or_indices(peers: object) -> None:
    with pytest.raises(ValidationError, match=r"a share of the peers, .* or a list of their indices"):
        Attack.model_validate({"name": "mine", "peers": peers})
