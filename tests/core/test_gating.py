"""Which experts a sample asks: what people may write, and what each choice is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from decentral.core.gating import ByNoise, Choice, Full, Gate, Threshold, TopK, gate
from decentral.errors import UserError

PROBABILITIES = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
NOISE = torch.tensor([0.9, 0.9])


@pytest.mark.parametrize(
    ("written", "built"),
    [
        ("full", Full),
        ("top-1", TopK),
        ({"name": "top-k", "k": 2}, TopK),
        ({"top-k": 2}, TopK),
        ({"threshold": 0.9}, Threshold),
        ({"name": "threshold", "mass": 0.9}, Threshold),
        ("by-noise", ByNoise),
        ({"name": "by-noise", "above": 0.7, "wide": {"threshold": 0.9}, "narrow": "top-2"}, ByNoise),
        ({"by-noise": 0.3}, ByNoise),
        (TopK(3), TopK),
    ],
)
def test_what_a_person_writes_becomes_a_choice(written: Choice | Gate, built: type[Gate]) -> None:
    assert type(gate(written)) is built


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("top-0", "at least 1"),
        ({"top-k": 1.5}, "must be an integer"),
        ("top-two", "unknown choice of experts 'top-two'"),
        ("fool", "did you mean 'full'"),
        ("threshold", "needs mass"),
        ({"threshold": 0}, "greater than 0"),
        ({"threshold": 1.1}, "at most 1"),
        ({"threshold": "most"}, "at most 1"),
        ({"name": "by-noise", "above": 2}, "between 0 and 1"),
        ({"name": "by-noise", "wide": "top-0"}, "at least 1"),
        ({"name": "full", "k": 1}, "does not take k"),
        ({"full": 1}, "has no options"),
        ({"k": 1, "mass": 2}, "experts must be a name"),
        ({}, "experts must be a name"),
        (7, "experts must be a name"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(written: object, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        gate(written)


def test_full_is_the_posterior_itself() -> None:
    assert torch.equal(gate("full")(PROBABILITIES, NOISE), PROBABILITIES)


def test_the_best_k_are_asked_and_renormalised() -> None:
    expected = torch.tensor([[5 / 8, 3 / 8, 0, 0], [0, 0, 3 / 7, 4 / 7]])
    torch.testing.assert_close(gate("top-2")(PROBABILITIES, NOISE), expected)


def test_a_threshold_asks_as_few_as_have_its_mass() -> None:
    assert (gate({"threshold": 0.75})(PROBABILITIES, NOISE) > 0).sum(1).tolist() == [2, 3]


def test_width_follows_the_noise_of_each_sample() -> None:
    weights = gate({"name": "by-noise", "above": 0.5})(PROBABILITIES, torch.tensor([0.5, 0.49]))
    torch.testing.assert_close(weights, torch.stack([PROBABILITIES[0], torch.tensor([0.0, 0.0, 0.0, 1.0])]))


def test_a_choice_is_checked_without_torch() -> None:
    code = (
        "import sys; from decentral.core.gating import gate;"
        "[gate(c) for c in ('full', 'top-2', {'threshold': 0.9}, 'by-noise')]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
