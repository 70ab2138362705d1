"""f are never a quorum, the honest always are, and how probable it is that liars are drawn together."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from decentral.core.quorum import Sizes, against_colluders, capture, with_deadlines


@given(st.integers(0, 50))
def test_the_usual_sizes_forbid_two_quorums_and_bear_with_f(faulty: int) -> None:
    for size in (with_deadlines(faulty), against_colluders(faulty)):
        assert size.lone
        assert size.replicas - size.faulty >= size.quorum > size.faulty


def test_sizes_that_cannot_be_are_refused() -> None:
    for replicas, faulty, quorum in ((3, 1, 1), (3, 1, 4), (3, -1, 2), (0, 0, 1)):
        with pytest.raises(ValueError, match="a quorum of"):
            Sizes(replicas, faulty, quorum)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 13), st.integers(1, 13))
def test_capture_is_the_tail_of_the_hypergeometric_distribution(n: int, m: int, k: int, q: int) -> None:
    m, k = min(m, n), min(k, n)
    assert capture(n, m, k, q) == pytest.approx(float(hypergeom.sf(q - 1, n, m, k)), abs=1e-12)


def test_capture_counts_the_draws() -> None:
    draws = list(combinations(range(7), 3))
    captured = sum(sum(peer < 3 for peer in drawn) >= 2 for drawn in draws)
    assert capture(7, 3, 3, 2) == pytest.approx(captured / len(draws))
    assert capture(7, 1, 3, 2) == 0
    assert capture(7, 7, 3, 2) == 1
    for impossible in ((7, 8, 3, 2), (7, 3, 8, 2), (7, -1, 3, 2), (7, 3, 3, 0)):
        with pytest.raises(ValueError, match="cannot be"):
            capture(*impossible)
