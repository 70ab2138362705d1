"""Costs are linear in what a circuit's settings say, and meet what was measured."""

from __future__ import annotations

import pytest

from decentral.errors import UserError
from decentral.zk.cost import Budget, Cost, Size

MEASURED = [
    # logrows, rows, products: processor seconds of setup and of a proof, GB at its peak, GB of the proving key
    (Size(15, 23_552, 16_052), (11.4, 13.5, 1.16, 0.290)),
    (Size(15, 5_642, 0), (4.3, 5.4, 0.80, 0.113)),
    (Size(15, 81_930, 51_960), (25.8, 29.5, 1.86, 0.674)),
    (Size(16, 81_930, 51_960), (28.2, 36.4, 2.10, 0.730)),
    (Size(15, 180_224, 166_308), (69.2, 65.7, 4.01, 2.059)),
    (Size(16, 356_352, 0), (44.6, 68.9, 3.38, 1.196)),
]


@pytest.mark.parametrize(("size", "measured"), MEASURED)
def test_they_are_those_of_the_circuits_that_were_measured(size, measured):
    found = Cost.of(size)
    assert (found.setup, found.prove, found.memory / 1e9, found.key / 1e9) == pytest.approx(measured, rel=0.12)


def test_a_slower_machine_takes_longer_and_no_more_memory():
    here, there = Cost.of(Size(15, 1000, 10)), Cost.of(Size(15, 1000, 10), 3.0)
    assert there.prove == pytest.approx(3 * here.prove) and there.setup == pytest.approx(3 * here.setup)
    assert (there.memory, there.key) == (here.memory, here.key)


def test_sizes_of_layers_add_up():
    assert Size(15, 1, 2).plus(Size(15, 10, 20)) == Size(15, 11, 22)


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
