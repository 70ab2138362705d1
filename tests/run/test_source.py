"""YAML that remembers its lines: what is read, and everything that is refused before it can do harm."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import RecipeError
from decentral.run import source

words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.sampled_from(
        ["no", "yes", "null", "~", "1e5", "12.5e6", "0x1F", "010", "1:30", "2024-01-01", ".nan", "", "- a"]
    )
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(words, values, min_size=1, max_size=5))
def test_what_is_dumped_is_read_back_with_its_types(content: dict[str, object]) -> None:
    assert source.read_value(source.dump(content), "here") == content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.5e6", 12.5e6),
        ("1e-3", 1e-3),
        ("-7", -7),
        (".5", 0.5),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("", None),
        ("[64, 32]", [64, 32]),
        ("{name: mlp, hidden: [1]}", {"name": "mlp", "hidden": [1]}),
        ("'5'", "5"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    read = source.read_value(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_infinity_and_nan_are_numbers_for_the_schema_to_refuse() -> None:
    assert source.read_value("-.inf", "here") == -math.inf
    assert math.isnan(source.read_value(".nan", "here"))


def test_every_key_knows_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# header\npeers: 5\ndata:\n  name: digits\n  partition: {name: dirichlet,\n    alpha: 1}\n")
    document = source.read_file(file)
    lines = {".".join(map(str, key)): place.line for key, place in document.places.items()}
    assert lines["peers"] == 2
    assert lines["data.name"] == 4
    assert lines["data.partition.alpha"] == 6


BOMB = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("peers: 1\npeers: 2\n", "given twice", 2),
        ("data:\n  name: a\n  name: b\n", "given twice", 3),
        ("data:\n\tname: digits\n", "tab", 2),
        ("- a\n- b\n", "a list", 1),
        ("just words\n", "a single value", 1),
        ("5\n", "a single value", 1),
        ("", "nothing", 1),
        ("# only a comment\n", "nothing", 1),
        (BOMB, "anchors", 1),
        ("a: 1\nb: !!python/object:os.system {}\n", "tags", 2),
        ("a: !!int 5\n", "tags", 1),
        ("a: [" * 40, "nested deeper", 1),
        ("? [a, b]\n: 1\n", "a key must be a word", 1),
        ("1: 2\n", "a key must be a word", 1),
        ("a: 1\n---\nb: 2\n", "document", None),
        ("a: [1, 2\n", "expected", None),
        ("a: b: c\n", "not allowed", 1),
        ("a: " + "9" * 5000, "digits", 1),
    ],
)
def test_what_is_not_a_plain_mapping_is_refused_with_its_line(
    tmp_path: Path, text: str, problem: str, line: int | None
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=problem) as caught:
        source.read_file(file)
    assert caught.value.file == str(file)
    if line is not None:
        assert caught.value.line == line


def test_other_bytes_than_utf8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(RecipeError, match="UTF-8") as caught:
        source.read_file(file)
    assert caught.value.line == 2


def test_control_characters_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "zero.yaml"
    file.write_bytes(b"a: \x00\n")
    with pytest.raises(RecipeError, match="not YAML"):
        source.read_file(file)


def test_a_big_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_text("a: 1\n" + "#" * source.MAX_BYTES)
    with pytest.raises(RecipeError, match="64 KiB"):
        source.read_file(file)
    file.write_text("a: 1\n" + "#" * (source.MAX_BYTES - 5))
    assert source.read_file(file).values == {"a": 1}


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_a_mapping_or_a_recipe_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    try:
        assert isinstance(source.read_file(file).values, dict)
    except RecipeError as error:
        assert str(file) in str(error)


def test_an_error_that_knows_no_file_is_given_the_place_of_its_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: 1\nb:\n  c: 2\n")
    document = source.read_file(path)
    with pytest.raises(RecipeError) as placed, document.placing():
        raise RecipeError("cannot be", key="b.c")
    assert (placed.value.file, placed.value.line, placed.value.key) == (str(path), 3, "b.c")
    with pytest.raises(RecipeError) as elsewhere, document.placing():
        raise RecipeError("cannot be", key="b.c", file="other.yaml", line=9)
    assert (elsewhere.value.file, elsewhere.value.line) == ("other.yaml", 9)
