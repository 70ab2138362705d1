"""Choices are the paper's, learn who is good, and learn it again when that changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.bandit import Arm, choose, features, learn

D = 3
seeds = st.integers(0, 2**32 - 1)


def history(seed: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (length, D)), rng.uniform(-1, 1, length)


@given(seeds, st.integers(0, 20), st.floats(0.1, 5))
def test_an_arm_is_ridge_regression_on_what_it_has_seen(seed: int, length: int, ridge: float) -> None:
    xs, rewards = history(seed, length)
    arm = Arm.new(D, ridge)
    for x, reward in zip(xs, rewards, strict=True):
        arm = arm.learned(x, reward)
    expected = np.linalg.solve(xs.T @ xs + ridge * np.eye(D), xs.T @ rewards)
    np.testing.assert_allclose(arm.theta, expected, atol=1e-9)


@given(seeds, st.integers(0, 20), st.floats(0.5, 1.0))
def test_discounts_weigh_the_past_and_leave_the_ridge(seed: int, length: int, discount: float) -> None:
    xs, rewards = history(seed, length)
    arm = Arm.new(D, 2.0)
    for x, reward in zip(xs, rewards, strict=True):
        arm = arm.faded(discount).learned(x, reward)
    weights = discount ** np.arange(length)[::-1]
    np.testing.assert_allclose(arm.a, (xs * weights[:, None]).T @ xs + 2.0 * np.eye(D), atol=1e-9)
    np.testing.assert_allclose(arm.b, (xs * weights[:, None]).T @ rewards, atol=1e-9)


@given(seeds, st.integers(1, 20), st.floats(0.1, 3))
def test_bounds_lie_above_what_is_believed_and_shrink_with_what_is_known(seed: int, length: int, alpha: float) -> None:
    xs, rewards = history(seed, length)
    arm, x = Arm.new(D), np.array([1.0, 0.5, -0.5])
    for each, reward in zip(xs, rewards, strict=True):
        knows = arm.learned(each, reward)
        doubts = [a.bound(x, alpha) - a.bound(x, 0.0) for a in (arm, knows, knows.faded(0.9))]
        assert doubts[0] >= doubts[1] - 1e-12 > 0
        assert doubts[2] >= doubts[1] - 1e-12, "what lies in the past is less certain"
        arm = knows
    assert arm.bound(x, 0.0) == pytest.approx(float(arm.theta @ x))


@given(seeds, st.randoms())
def test_the_highest_bound_is_chosen_whatever_the_order(seed: int, order) -> None:
    rng = np.random.default_rng(seed)
    arms = {name: Arm.new(D).learned(rng.uniform(-1, 1, D), rng.uniform(-1, 1)) for name in "abcd"}
    contexts = {name: rng.uniform(0, 1, D) for name in "abc"}
    chosen = choose(arms, contexts, 0.7)
    assert arms[chosen].bound(contexts[chosen], 0.7) == max(arms[n].bound(contexts[n], 0.7) for n in contexts)
    shuffled = list(contexts.items())
    order.shuffle(shuffled)
    assert choose(arms, dict(shuffled), 0.7) == chosen


def test_equals_are_decided_by_name_and_the_untried_come_first() -> None:
    x = np.array([1.0, 0.0, 0.0])
    arms = {"b": Arm.new(D), "a": Arm.new(D)}
    assert choose(arms, {"b": x, "a": x}) == "a"
    assert choose(learn(arms, "a", x, 0.0), {"b": x, "a": x}) == "b"


def played(rule: str, steps: int, seed: int, discount: float, shift: int) -> list[float]:
    """Regret of every step on a drawn problem: four peers, of whom the best becomes the worst after `shift` steps."""
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "d"]
    truth = {name: np.array([0.2 * place, 0.1, -0.1]) for place, name in enumerate(names)}
    arms, regret = {name: Arm.new(D) for name in names}, []
    for step in range(steps):
        if step == shift:
            truth["d"] = np.array([-0.5, 0.1, -0.1])
        contexts = {name: np.array([1.0, *rng.uniform(0, 1, 2)]) for name in names}
        chosen = choose(arms, contexts, 0.5) if rule == "linucb" else str(rng.choice(names))
        means = {name: float(truth[name] @ contexts[name]) for name in names}
        regret.append(max(means.values()) - means[chosen])
        arms = learn(arms, chosen, contexts[chosen], means[chosen] + 0.05 * rng.normal(), discount)
    return regret


def test_regret_is_far_below_that_of_uniform_choice() -> None:
    for seed in range(3):
        ours, theirs = (sum(played(rule, 300, seed, 1.0, 300)) for rule in ("linucb", "uniform"))
        assert ours < 0.25 * theirs


def test_a_discounted_bandit_recovers_when_the_best_becomes_the_worst() -> None:
    for seed in range(3):
        forgetting, lasting = (sum(played("linucb", 400, seed, gamma, 250)[250:]) for gamma in (0.97, 1.0))
        uniform = sum(played("uniform", 400, seed, 1.0, 250)[250:])
        assert forgetting < 0.6 * uniform
        assert forgetting < lasting


@given(*[st.floats(0, 1e9)] * 3, st.floats(0, 1))
def test_features_are_bounded_whatever_a_peer_claims(latency: float, load: float, price: float, repute: float) -> None:
    x = features(latency, load, price, repute)
    assert ((x >= 0) & (x <= 1)).all()
    assert features(latency + 1, load, price, repute)[1] >= x[1]


def test_what_is_no_number_is_refused() -> None:
    for given_ in ((-1.0, 0.0, 0.0, 0.5), (0.0, float("nan"), 0.0, 0.5), (0.0, 0.0, 0.0, 1.5)):
        with pytest.raises(ValueError, match="at least 0"):
            features(*given_)
    arm = Arm.new(D)
    with pytest.raises(ValueError, match="finite"):
        arm.learned(np.ones(D), float("nan"))
    with pytest.raises(ValueError, match="discount"):
        arm.faded(0.0)
    with pytest.raises(ValueError, match="ridge"):
        Arm.new(D, 0.0)
    with pytest.raises(ValueError, match="nobody"):
        choose({"a": arm}, {})
