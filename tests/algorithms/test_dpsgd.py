"""Averaging over the neighbours: the mean stays, the differences vanish, and the world does not matter."""

from __future__ import annotations

import pytest
import torch

from decentral.algorithms.dpsgd import DPSGD
from decentral.core import topology


@pytest.mark.parametrize("name", ["ring", "full", "star", "exponential"])
def test_one_round_is_one_product_with_the_mixing_matrix(world, name):
    played = world(6, DPSGD, topology_name=name, rounds=1, step=0.0).play()
    mixing = torch.from_numpy(topology.metropolis_hastings(topology.build(name, 6)))
    expected = mixing @ torch.arange(6, dtype=torch.float64)
    assert torch.allclose(torch.tensor(played.values, dtype=torch.float64), expected, atol=1e-12)


def test_mixing_keeps_the_mean_and_brings_the_peers_together(world):
    played = world(5, DPSGD, rounds=40, step=0.0).play()
    assert sum(played.values) / 5 == pytest.approx(2.0)
    assert max(played.values) - min(played.values) < 1e-6


def test_the_same_run_twice_gives_the_same_numbers(world):
    assert world(5, DPSGD).play().values == world(5, DPSGD).play().values


def test_one_peer_alone_trains_alone(world):
    assert world(1, DPSGD, rounds=3).play().values == [3.0]
