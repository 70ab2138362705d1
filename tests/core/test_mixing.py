"""Mixing matrices as tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.mixing import mixing_matrix
from decentral.errors import UserError


@given(st.sampled_from(("ring", "full", "star", "torus", "exponential")), st.integers(1, 20))
def test_rows_and_columns_sum_to_one(name: str, n: int) -> None:
    weights = mixing_matrix(name, n)
    assert weights.dtype == torch.float64
    assert weights.shape == (n, n)
    torch.testing.assert_close(weights.sum(0), torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(1), torch.ones(n, dtype=torch.float64))


def test_options_and_seed_reach_the_topology() -> None:
    assert int((mixing_matrix("regular", 8, seed=1, degree=4)[0] > 0).sum()) == 5
    assert torch.equal(
        mixing_matrix("erdos-renyi", 8, seed=3, probability=0.5),
        mixing_matrix("erdos-renyi", 8, seed=3, probability=0.5),
    )
    with pytest.raises(UserError, match="at least 7 peers"):
        mixing_matrix("regular", 5, degree=6)
