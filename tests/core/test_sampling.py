"""Equal views give equal samples, nobody is drawn twice, and in the long run everybody is drawn equally often."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from decentral.core.sampling import drawn, fingerprint, places

PEERS = 40

candidates = st.sets(st.integers(0, PEERS - 1), min_size=1).map(lambda chosen: np.array(sorted(chosen)))


@given(candidates, st.integers(0, 2**62), st.integers(0, 10**6))
def test_equal_views_give_equal_samples_of_candidates(chosen, seed: int, round: int) -> None:
    order = drawn(chosen, seed, round, PEERS)
    assert order == drawn(chosen.copy(), seed, round, PEERS)
    assert sorted(order) == chosen.tolist()


@given(candidates, st.integers(1, PEERS), st.integers(0, 100))
def test_the_first_few_are_the_beginning_of_the_whole_order(chosen, first: int, round: int) -> None:
    assert drawn(chosen, 3, round, PEERS, first) == drawn(chosen, 3, round, PEERS)[:first]


@given(candidates, candidates, st.integers(0, 100))
def test_views_that_differ_keep_the_order_of_those_whom_both_know(a, b, round: int) -> None:
    common = set(a.tolist()) & set(b.tolist())
    one, other = ([peer for peer in drawn(view, 0, round, PEERS) if peer in common] for view in (a, b))
    assert one == other


@given(st.integers(0, 2**62), st.integers(0, 10**9))
def test_places_are_distinct(seed: int, round: int) -> None:
    assert len(set(places(seed, round, 1000).tolist())) == 1000


def test_everybody_is_drawn_equally_often_and_beside_everybody() -> None:
    everybody, size, rounds = np.arange(PEERS), 10, 4000
    samples = [drawn(everybody, 0, round, PEERS, size) for round in range(rounds)]
    counts = np.bincount(np.concatenate(samples), minlength=PEERS)
    # A round draws without replacement, which narrows the counts: the statistic shrinks by (n - s) / (n - 1).
    statistic = chisquare(counts).statistic * (PEERS - 1) / (PEERS - size)
    assert 15 < statistic < 75, "chi-square with 39 degrees of freedom: 0.02 % lies outside on each side"
    first = np.bincount([sample[0] for sample in samples], minlength=PEERS)
    assert chisquare(first).pvalue > 1e-3
    together = sum(3 in sample and 7 in sample for sample in samples) / rounds
    assert abs(together - size * (size - 1) / (PEERS * (PEERS - 1))) < 0.012


def test_rounds_and_seeds_draw_apart() -> None:
    everybody = np.arange(PEERS)
    orders = {tuple(drawn(everybody, seed, round, PEERS, 5)) for seed in range(10) for round in range(10)}
    assert len(orders) == 100


@given(candidates, candidates)
def test_equal_fingerprints_are_equal_views(one, other) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one.tolist() == other.tolist())
    assert len(fingerprint(one)) == 8
