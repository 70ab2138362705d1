"""`finite` says what elementwise tests say, also where a sum does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from decentral.core.finite import finite

LARGE = torch.finfo(torch.float32).max


@given(arrays("float32", st.integers(0, 40), elements=st.floats(width=32)))
def test_it_is_what_elements_say(array) -> None:
    tensor = torch.from_numpy(array)
    assert finite(tensor) == bool(tensor.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_element_is_found_in_every_type(dtype: torch.dtype, bad: float) -> None:
    tensor = torch.ones(3, 5, dtype=dtype)
    assert finite(tensor)
    tensor[1, 2] = bad
    assert not finite(tensor)


@pytest.mark.parametrize("bad", [complex(float("nan"), 0), complex(0, float("inf"))])
def test_complex_numbers_are_finite_if_both_parts_are(bad: complex) -> None:
    tensor = torch.zeros(3, dtype=torch.complex64)
    assert finite(tensor)
    tensor[1] = bad
    assert not finite(tensor)


def test_numbers_whose_sum_is_too_large_are_finite() -> None:
    assert finite(torch.full((4,), LARGE))


def test_opposite_infinities_do_not_cancel() -> None:
    assert not finite(torch.tensor([float("inf"), -float("inf")]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are(dtype: torch.dtype) -> None:
    assert finite(torch.ones(3, dtype=dtype))


def test_a_parameter_keeps_no_graph() -> None:
    assert finite(torch.ones(3, requires_grad=True))
