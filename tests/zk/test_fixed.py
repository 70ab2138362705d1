"""Fixed-point numbers are Python's integers, whatever their size."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from decentral.zk.fixed import Fixed, joined

INTEGERS = st.lists(st.integers(-(2**90), 2**90), min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(st.integers(-(2**90), 2**90), st.integers(-(2**60), 2**60)), min_size=1, max_size=6)


def fixed(values: list[int], scale: int = 0) -> Fixed:
    return Fixed.of_integers(values, [len(values)], scale)


def rounded(value: Fraction) -> int:
    """Halves away from zero."""
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


@given(INTEGERS)
def test_integers_come_back_as_they_went(values):
    found = fixed(values)
    assert found.integers() == values
    assert found.bits() == max(abs(value).bit_length() for value in values)
    assert all(bool(((digit >= 0) & (digit < 2**28)).all()) for digit in found.digits[:-1])


@given(PAIRS, st.integers(0, 40), st.integers(0, 40))
@example([(0, -(2**55) - 1)], 26, 0)
def test_sums_are_taken_in_the_smaller_steps(pairs, first, second):
    one, two = ([pair[side] for pair in pairs] for side in (0, 1))
    found = fixed(one, first).plus(fixed(two, second))
    scale = max(first, second)
    assert found.scale == scale
    assert found.integers() == [a * 2 ** (scale - first) + b * 2 ** (scale - second) for a, b in pairs]


@given(INTEGERS, st.integers(0, 100))
def test_larger_steps_round_halves_away_from_zero(values, bits):
    found = fixed(values, 100).rescaled(100 - bits)
    assert found.scale == 100 - bits
    assert found.integers() == [rounded(Fraction(value, 2**bits)) for value in values]


@given(PAIRS)
def test_what_is_larger_and_what_is_negative_is_seen_in_every_digit(pairs):
    one, two = ([pair[side] for pair in pairs] for side in (0, 1))
    assert fixed(one).larger(fixed(two)).integers() == [max(pair) for pair in pairs]
    assert fixed(one).relu().integers() == [max(value, 0) for value in one]
    assert joined([fixed(one), fixed(two)], 0).integers() == one + two


@given(INTEGERS, st.lists(st.integers(-(2**12), 2**12), min_size=6, max_size=6))
def test_products_with_small_weights_are_exact(values, weights):
    row = torch.tensor(weights[: len(values)], dtype=torch.float64)
    found = fixed(values).linear(lambda each: (each * row).sum(0, keepdim=True), float(row.abs().sum()), 7)
    assert found.scale == 7
    assert found.integers() == [sum(a * b for a, b in zip(values, weights, strict=False))]


def test_weights_that_could_not_be_exact_are_refused():
    with pytest.raises(OverflowError, match="2\\^25"):
        fixed([1]).linear(lambda each: each, 2.0**25, 7)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6), st.integers(0, 60))
def test_numbers_are_read_to_the_nearest_step(values, scale):
    found = Fixed.of_real(torch.tensor(values), scale)
    assert found.integers() == [rounded(Fraction(value) * 2**scale) for value in values]
    assert found.real().tolist() == pytest.approx(values, abs=2.0**-scale, rel=1e-12)


def test_smaller_steps_cannot_become_larger_by_raising():
    with pytest.raises(ValueError, match="larger steps"):
        fixed([1], 3).raised(2)
