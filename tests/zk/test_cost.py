"""Costs are linear in what a circuit's settings say, and meet what was measured."""

from __future__ import annotations

import pytest

from decentral.errors import UserError
from decentral.zk.cost import Budget, Cost, Size

MEASURED = [
    # logrows, rows, ranges: processor seconds of setup and of a proof, GB of the proof at its peak and of its key
    (Size(15, 5_642), (4.5, 5.5, 0.26, 0.113)),
    (Size(15, 182_272, ranged=True), (24.6, 39.7, 1.51, 0.598)),
]
"""None of them is among those that coefficients were fitted to."""


@pytest.mark.parametrize(("size", "measured"), MEASURED)
def test_they_are_those_of_the_circuits_that_were_measured(size, measured):
    found = Cost.of(size)
    assert (found.setup, found.prove, found.memory / 1e9, found.key / 1e9) == pytest.approx(measured, rel=0.12)


def test_a_slower_machine_takes_longer_and_no_more_memory():
    here, there = Cost.of(Size(15, 1000)), Cost.of(Size(15, 1000), 3.0)
    assert there.prove == pytest.approx(3 * here.prove) and there.setup == pytest.approx(3 * here.setup)
    assert (there.memory, there.key) == (here.memory, here.key)


def test_sizes_of_layers_add_up():
    assert Size(15, 1).plus(Size(15, 10)) == Size(15, 11)
    assert Size(15, 1).plus(Size(15, 10, ranged=True)) == Size(15, 11, ranged=True)


def test_ranges_cost_more_in_every_block():
    plain, ranged = (Cost.of(Size(15, 100_000, each)) for each in (False, True))
    assert ranged.prove > 1.3 * plain.prove and ranged.memory > 1.3 * plain.memory and ranged.key > plain.key


def test_a_budget_says_by_how_much_it_is_exceeded():
    cost = Cost(setup=1, prove=100, memory=3e9, key=1e9)
    assert Budget(memory=3e9, seconds=100).fits(cost)
    assert not Budget(memory=2e9).fits(cost) and not Budget(seconds=99).fits(cost)
    assert Budget(memory=2e9).excess(cost) == "3.0 GB of memory, 1.0 GB more than the budget"
    assert "40 s more than the budget" in Budget(seconds=60).excess(cost)


@pytest.mark.parametrize("budget", [{"memory": 0}, {"seconds": -1}])
def test_a_budget_of_nothing_is_refused(budget):
    with pytest.raises(UserError, match="more than nothing"):
        Budget(**budget)
