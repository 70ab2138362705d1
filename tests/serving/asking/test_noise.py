"""Noise on what leaves a client."""

from __future__ import annotations

import torch

from decentral.core.budget import Budget
from decentral.serving.asking.noise import Noise


def test_every_answer_has_noise_of_its_own_that_nobody_can_draw_again() -> None:
    budget = Budget("laplace", 1.0, 2.0)
    tensors = {"a": torch.zeros(4, 3)}
    one, other = Noise(budget), Noise(budget)
    drawn = [noise(tensors)["a"] for noise in (one, one, other)]
    assert all(not torch.equal(first, second) for first, second in zip(drawn, [*drawn[1:], drawn[0]], strict=True))


def test_the_worst_case_adds_up_what_each_answer_costs() -> None:
    noise = Noise(Budget("gaussian", 0.5, 2.0, 1e-6))
    assert noise.spent() == (0.0, 0.0)
    for _ in range(3):
        noise({"a": torch.zeros(4, 3)})
    assert noise.spent() == (1.5, 3e-6)
