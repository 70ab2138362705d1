"""One root seed, a tree of independent ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decentral.core.seeds import derive_seed

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=8)
PARTS = st.lists(st.one_of(st.integers(-(10**9), 10**9), WORDS))
ROOTS = st.integers(0, 2**63 - 1)


@given(ROOTS, PARTS)
def test_a_seed_fits_every_generator(root: int, path: list[int | str]) -> None:
    assert 0 <= derive_seed(root, *path) < 2**63


@given(ROOTS, ROOTS, PARTS, PARTS)
def test_seeds_are_equal_only_for_equal_roots_and_paths(
    root: int, other_root: int, path: list[int | str], other: list[int | str]
) -> None:
    same = derive_seed(root, *path) == derive_seed(other_root, *other)
    assert same == ((root, path) == (other_root, other))


def test_a_number_is_not_its_text_and_a_path_is_not_its_concatenation() -> None:
    distinct = [(1,), ("1",), (1, 1), (11,), ("11",), ("a", "b"), ("ab",), ("", "ab"), ()]
    assert len({derive_seed(0, *path) for path in distinct}) == len(distinct)


def test_seeds_never_change_between_versions_and_platforms() -> None:
    assert derive_seed(0, "shuffle", 2, 7) == 3726164477541144400
    assert derive_seed(1234, "initialisation") == 1038560754437144985
