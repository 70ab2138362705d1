"""Lots are fair, the same for all who know the nonce, and different for every purpose."""

from __future__ import annotations

import hashlib
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from decentral.core.lots import FLOOR, NONCE_BYTES, chosen, draw, uniform, weight

nonces = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)
PEERS = [f"peer-{i}" for i in range(12)]


def nonce(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


@given(nonces, st.dictionaries(st.text(max_size=8), st.floats(1e-3, 1e3), max_size=8), st.randoms(), st.data())
def test_the_order_of_the_list_does_not_matter(key: bytes, weights: dict[str, float], order, data) -> None:
    count = data.draw(st.integers(0, len(weights)))
    found = draw(key, "audit", weights, count)
    shuffled = list(weights.items())
    order.shuffle(shuffled)
    assert found == draw(key, "audit", dict(shuffled), count)
    assert len(set(found)) == count
    assert found == draw(key, "audit", weights, len(weights))[:count]


def test_equal_weights_are_drawn_equally_often_and_in_every_order() -> None:
    rounds, size = 3000, 3
    draws = [draw(nonce(number), "stage-1", dict.fromkeys(PEERS, 1.0), size) for number in range(rounds)]
    counts = [sum(peer in drawn for drawn in draws) for peer in PEERS]
    # Drawn without replacement, which narrows the counts by (n - s) / (n - 1).
    statistic = chisquare(counts).statistic * (len(PEERS) - 1) / (len(PEERS) - size)
    assert statistic < 37, "chi-square with 11 degrees of freedom: 0.01 % lies above"
    few = [tuple(draw(nonce(number), "x", dict.fromkeys("abc", 1.0), 3)) for number in range(rounds)]
    assert chisquare([few.count(order) for order in permutations("abc")]).pvalue > 1e-4


def test_the_first_is_drawn_in_proportion_to_weight_and_so_is_the_second_of_the_rest() -> None:
    weights, rounds = {"a": 1.0, "b": 2.0, "c": 5.0}, 4000
    draws = [tuple(draw(nonce(number), "serve", weights, 2)) for number in range(rounds)]
    orders = list(permutations(weights, 2))
    expected = [weights[x] / 8 * weights[y] / (8 - weights[x]) * rounds for x, y in orders]
    assert chisquare([draws.count(order) for order in orders], expected).pvalue > 1e-4


def test_nobody_is_never_drawn() -> None:
    weights = {"newcomer": weight(0.0), "known": weight(1.0), "other": weight(0.9)}
    assert weights["newcomer"] == FLOOR > 0
    assert weights["known"] == 1.0
    assert any("newcomer" in draw(nonce(number), "audit", weights, 1) for number in range(200))


@given(nonces, nonces)
def test_another_nonce_or_purpose_draws_apart(one: bytes, other: bytes) -> None:
    everybody = dict.fromkeys((f"p{i}" for i in range(40)), 1.0)
    lots = {
        tuple(draw(key, purpose, everybody, 20))
        for key in {one, other}
        for purpose in ("serve-1", "audit-1", "serve-2")
    }
    assert len(lots) == 3 * len({one, other})


def test_single_chances_are_uniform() -> None:
    drawn = np.array([uniform(nonce(number), "a") for number in range(2000)])
    assert kstest(drawn, "uniform").pvalue > 1e-4
    assert ((drawn > 0) & (drawn < 1)).all()
    share = np.mean([chosen(nonce(number), "proof", 0.2) for number in range(2000)])
    assert abs(share - 0.2) < 0.045, "five standard deviations"
    assert not any(chosen(nonce(number), "proof", 0.0) for number in range(100))
    assert all(chosen(nonce(number), "proof", 1.0) for number in range(100))


def test_what_cannot_be_drawn_is_refused() -> None:
    for key, weights, count, why in (
        (b"short", {"a": 1.0}, 1, "a nonce has 32 bytes"),
        (nonce(0), {"a": 1.0}, 2, "cannot be drawn"),
        (nonce(0), {"a": 0.0}, 1, "above zero"),
        (nonce(0), {"a": float("nan")}, 1, "above zero"),
        (nonce(0), {"a": float("inf")}, 1, "above zero"),
    ):
        with pytest.raises(ValueError, match=why):
            draw(key, "audit", weights, count)
