"""No past is long enough to make a lie cheap, and time brings everybody back to what nothing is known of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.reputation import CAP, HALF_LIFE, LIE, TESTS, Reputation

counts = st.integers(0, 4 * int(CAP)).map(lambda quarters: quarters / 4)
reputations = st.builds(Reputation, counts, counts, st.integers(0, TESTS))
times = st.floats(0, 1e9)
WHAT = {
    "answered": Reputation.answered,
    "tested": Reputation.tested,
    "silent": Reputation.silent,
    "lied": Reputation.lied,
}
NOBODY = Reputation()


def after(reputation: Reputation, *what: str) -> Reputation:
    for each in what:
        reputation = WHAT[each](reputation)
    return reputation


@given(reputations, st.lists(st.sampled_from(sorted(WHAT)), max_size=200))
def test_whatever_happens_a_score_is_a_probability(reputation: Reputation, what: list[str]) -> None:
    found = after(reputation, *what)
    assert 0 < found.score < 1
    assert 0 <= found.standing < 1


@given(reputations)
def test_good_answers_never_harm_and_others_never_help(reputation: Reputation) -> None:
    assert reputation.answered().score >= reputation.score
    assert reputation.tested().standing >= reputation.standing
    assert reputation.silent().score <= reputation.score
    assert reputation.lied().score < reputation.silent().score or reputation.bad >= CAP - LIE


@given(reputations, st.integers(0, 500))
def test_a_lie_costs_more_than_any_number_of_good_answers_has_earned(reputation: Reputation, good: int) -> None:
    earned = after(reputation, *["answered"] * good)
    lied = earned.lied()
    assert lied.score <= reputation.score
    assert lied.score < reputation.score or (reputation.bad >= CAP and not reputation.good)
    assert lied.newcomer
    assert lied.standing == 0


@given(st.integers(1, int(CAP)))
def test_more_good_answers_are_needed_to_make_up_for_a_lie_than_were_given_before(good: int) -> None:
    before = after(NOBODY, *["answered"] * good)
    again, needed = before.lied(), 0
    while again.score < before.score and needed <= CAP:
        again, needed = again.answered(), needed + 1
    assert needed > good


@given(st.integers(0, 10_000))
def test_a_long_past_is_worth_no_more_than_the_cap(good: int) -> None:
    """Good repute and then a lie: two of them leave the same, whatever was before."""
    long = after(NOBODY, *["answered"] * min(good, 3 * int(CAP)))
    assert long.score <= after(NOBODY, *["answered"] * int(CAP)).score
    assert long.lied() == NOBODY.lied()


@given(reputations, times, times)
def test_decay_is_monotone_towards_what_nobody_is_taken_for(reputation: Reputation, early: float, late: float) -> None:
    early, late = sorted((early, late))
    gaps = [reputation.after(t).score - NOBODY.score for t in (0.0, early, late)]
    assert abs(gaps[0]) >= abs(gaps[1]) - 1e-12 >= abs(gaps[2]) - 2e-12
    assert gaps[0] * gaps[2] >= 0
    assert reputation.after(1e12).score == pytest.approx(NOBODY.score)
    assert reputation.after(0.0) == reputation


@given(reputations, st.floats(0, 1e7), st.floats(0, 1e7))
def test_time_adds_up(reputation: Reputation, one: float, other: float) -> None:
    assert reputation.after(one).after(other).score == pytest.approx(reputation.after(one + other).score)
    assert reputation.after(HALF_LIFE).good == pytest.approx(reputation.good / 2)


def test_a_newcomer_has_no_standing_until_it_has_passed_its_tests() -> None:
    peer = after(NOBODY, *["answered"] * 100)
    assert peer.newcomer
    assert peer.standing == 0
    for _ in range(TESTS):
        assert peer.newcomer
        peer = peer.tested()
    assert not peer.newcomer
    assert peer.standing == peer.score > NOBODY.score
    assert peer.after(1e8).passed == TESTS


def test_a_liar_is_worth_less_than_somebody_unknown() -> None:
    assert NOBODY.lied().score < NOBODY.silent().score < NOBODY.score


def test_what_cannot_be_is_refused() -> None:
    for impossible in ((-1.0, 0.0, 0), (CAP + 1, 0.0, 0), (0.0, float("nan"), 0), (0.0, 0.0, TESTS + 1)):
        with pytest.raises(ValueError, match="no reputation"):
            Reputation(*impossible)
    for backwards in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="backwards"):
            NOBODY.after(backwards)
