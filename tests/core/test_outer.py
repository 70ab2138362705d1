"""The outer optimiser is SGD with Nesterov's momentum over rounds, and whoever sees the models knows its memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.outer import OUTERS, Nesterov
from decentral.errors import UserError

RATES, MOMENTA = st.floats(0.1, 2.0), st.floats(0.0, 0.95)


def walk(outer: Nesterov, seed: int, rounds: int = 8) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Models, the averages between them, and trails, from a common start."""
    draw = torch.Generator().manual_seed(seed)
    models = [torch.randn(5, generator=draw, dtype=torch.float64)]
    averages, trails = [], [models[0]]
    for _ in range(rounds):
        average = models[-1] + torch.randn(5, generator=draw, dtype=torch.float64)
        averages.append(average)
        models.append(outer.step({"w": models[-1]}, {"w": average}, {"w": trails[-1]})["w"])
        trails.append(outer.follow({"w": models[-1]}, {"w": trails[-1]})["w"])
    return models, averages, trails


@given(rate=RATES, momentum=MOMENTA, seed=st.integers(0, 1000))
def test_it_takes_the_steps_of_pytorchs_sgd(rate, momentum, seed):
    models, averages, _ = walk(Nesterov(rate, momentum), seed)
    parameter = torch.nn.Parameter(models[0].clone())
    sgd = torch.optim.SGD([parameter], lr=rate, momentum=momentum, nesterov=momentum > 0)
    for average, expected in zip(averages, models[1:], strict=True):
        parameter.grad = parameter.detach() - average
        sgd.step()
        assert torch.allclose(parameter.detach(), expected, atol=1e-8)


@given(rate=RATES, momentum=MOMENTA, seed=st.integers(0, 1000))
def test_the_trail_is_where_the_step_without_its_momentum_led(rate, momentum, seed):
    models, averages, trails = walk(Nesterov(rate, momentum), seed)
    for last, average, trail in zip(models, averages, trails[1:], strict=False):
        assert torch.allclose(trail, last + rate * (average - last), atol=1e-8)


@given(momentum=MOMENTA, seed=st.integers(0, 1000))
def test_who_starts_to_follow_later_comes_to_know_the_same(momentum, seed):
    outer = Nesterov(0.7, momentum)
    models, _, trails = walk(outer, seed, rounds=60)
    late = {"w": models[20]}
    for model in models[21:]:
        late = outer.follow({"w": model}, late)
    assert torch.allclose(late["w"], trails[60], atol=(momentum / (1 + momentum)) ** 40 * 100 + 1e-9)


def test_without_momentum_at_rate_one_it_is_the_average():
    models, averages, _ = walk(Nesterov(1.0, 0.0), 0)
    assert all(torch.allclose(model, average) for model, average in zip(models[1:], averages, strict=True))


def test_what_has_no_gradient_is_averaged():
    last, average = (
        {"w": torch.full((2,), v), "var": torch.full((2,), v), "n": torch.tensor(int(v))} for v in (1.0, 3.0)
    )
    moved = Nesterov(0.5, 0.5).step(last, average, last, apart={"var"})
    assert moved["w"].tolist() == [2.5, 2.5]
    assert moved["var"] is average["var"] and moved["n"] is average["n"]
    assert Nesterov().follow(moved, {}).keys() == {"w", "var"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0}, "learning_rate must be greater than 0 and at most 10, not 0"),
        ({"learning_rate": math.nan}, "learning_rate must be"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1, not 1.0"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"rate": 1.0}, "does not take rate"),
    ],
)
def test_what_it_cannot_use_is_named(options, words):
    with pytest.raises(UserError, match=words):
        OUTERS.construct("nesterov", **options)
