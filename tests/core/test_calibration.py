"""Bounds hold as often as they promise, a tolerance is the smallest that keeps its bound, and curves count right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from decentral.core.calibration import (
    Rate,
    curve,
    events_allowed,
    rejected,
    smallest_tolerance,
    trials_needed,
)

confidences = st.sampled_from([0.5, 0.9, 0.95, 0.999])
rates = st.floats(0.01, 0.99)
distance = st.floats(0, 2) | st.sampled_from([np.inf, np.nan])


@st.composite
def counted(draw: st.DrawFn) -> Rate:
    trials = draw(st.integers(1, 400))
    return Rate(draw(st.integers(0, trials)), trials)


# Rates


@given(counted(), confidences)
def test_a_bound_is_where_what_was_seen_becomes_that_improbable(rate: Rate, confidence: float) -> None:
    """The definition of Clopper and Pearson: P(at most so many events | upper) = 1 - confidence."""
    if rate.events < rate.trials:
        below = binom.cdf(rate.events, rate.trials, rate.upper(confidence))
        assert below == pytest.approx(1 - confidence, abs=1e-9)
    if rate.events:
        above = binom.sf(rate.events - 1, rate.trials, rate.lower(confidence))
        assert above == pytest.approx(1 - confidence, abs=1e-9)
    if confidence > 0.5:
        assert rate.lower(confidence) <= rate.value <= rate.upper(confidence)


@given(st.floats(0.001, 0.999), st.integers(1, 60), confidences)
def test_a_bound_holds_at_least_as_often_as_it_promises(truth: float, trials: int, confidence: float) -> None:
    holds = [Rate(events, trials).upper(confidence) >= truth for events in range(trials + 1)]
    assert binom.pmf(range(trials + 1), trials, truth) @ np.array(holds) >= confidence - 1e-9


def test_all_or_nothing_has_bounds_in_closed_form() -> None:
    assert Rate(0, 3000).upper() == pytest.approx(1 - 0.05 ** (1 / 3000))
    assert Rate(300, 300).lower() == pytest.approx(0.05 ** (1 / 300))
    assert Rate(0, 5).lower() == 0
    assert Rate(5, 5).upper() == 1


@given(st.floats(0.001, 0.9), confidences)
def test_fewer_trials_than_needed_bound_nothing(rate: float, confidence: float) -> None:
    needed = trials_needed(rate, confidence)
    assert Rate(0, needed).upper(confidence) <= rate * (1 + 1e-9)
    if needed > 1:
        assert Rate(0, needed - 1).upper(confidence) > rate
        with pytest.raises(ValueError, match="it takes"):
            events_allowed(needed - 1, rate, confidence)


@given(st.integers(1, 2000), rates, confidences)
def test_no_more_events_are_allowed_than_the_bound_bears(trials: int, rate: float, confidence: float) -> None:
    if trials < trials_needed(rate, confidence):
        return
    allowed = events_allowed(trials, rate, confidence)
    assert allowed == 0 or Rate(allowed, trials).upper(confidence) <= rate
    assert Rate(allowed + 1, trials).upper(confidence) > rate


@pytest.mark.parametrize("events, trials", [(1, 0), (-1, 5), (6, 5), (0, 0)])
def test_what_cannot_be_counted_is_refused(events: int, trials: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        Rate(events, trials)


def test_rates_and_confidences_are_between_0_and_1() -> None:
    for rate in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            trials_needed(rate)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="a confidence"):
            Rate(1, 2).upper(confidence)


# Tolerances


@given(st.lists(st.floats(0, 2), min_size=60, max_size=300), st.sampled_from([0.05, 0.1, 0.3]))
def test_a_tolerance_keeps_its_bound_and_no_smaller_distance_does(honest: list[float], rate: float) -> None:
    found = np.array(honest)
    tolerance = smallest_tolerance(found, rate)
    assert tolerance in honest
    assert rejected(found, tolerance).upper() <= rate
    if (smaller := found[found < tolerance]).size:
        assert rejected(found, float(smaller.max())).upper() > rate


def test_a_chosen_tolerance_holds_for_samples_it_has_not_seen_as_often_as_it_promises() -> None:
    """Whatever the distribution: here one of a long tail, whose true quantiles are known."""
    rng = np.random.default_rng(0)
    rate, kept, repeats = 0.02, 0, 500
    for _ in range(repeats):
        chosen = smallest_tolerance(rng.pareto(1.0, 300), rate)
        kept += (1 + chosen) ** -1.0 <= rate  # the probability that another sample exceeds it
    assert Rate(kept, repeats).upper(0.999) >= 0.95
    assert kept < repeats, "and it is not so large that it always holds"


def test_honest_answers_that_are_no_numbers_leave_no_tolerance() -> None:
    honest = np.concatenate([np.full(290, 1e-6), np.full(10, np.inf)])
    with pytest.raises(ValueError, match="no numbers"):
        smallest_tolerance(honest, 0.01)
    assert smallest_tolerance(honest, 0.1) == 1e-6
    assert rejected(np.array([0.5, 1.0, np.inf, np.nan]), 0.5) == Rate(3, 4)


# Curves


@given(st.lists(distance, min_size=1, max_size=60), st.lists(distance, min_size=1, max_size=60))
def test_a_curve_is_what_counting_at_each_tolerance_gives(honest: list[float], lying: list[float]) -> None:
    found = curve(np.array(honest), np.array(lying))
    for tolerance, false, detected in zip(found.tolerances, found.false_rejects, found.detections, strict=True):
        if np.isfinite(tolerance):
            assert false == pytest.approx(rejected(np.array(honest), tolerance).value)
            assert detected == pytest.approx(rejected(np.array(lying), tolerance).value)
    assert (np.diff(found.false_rejects) >= 0).all()
    assert (np.diff(found.detections) >= 0).all()
    assert found.false_rejects[-1] == found.detections[-1] == 1


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60), st.lists(st.floats(0, 2), min_size=1, max_size=60))
def test_the_area_below_it_is_that_of_scikit_learn(honest: list[float], lying: list[float]) -> None:
    found = curve(np.array(honest), np.array(lying))
    labels = [0] * len(honest) + [1] * len(lying)
    area = np.trapezoid(found.detections, found.false_rejects)
    assert area == pytest.approx(roc_auc_score(labels, honest + lying), abs=1e-9)
