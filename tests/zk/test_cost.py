"""Costs are linear in what a circuit's settings say, and meet what was measured."""

from __future__ import annotations

import pytest

from decentral.errors import UserError
from decentral.zk.cost import Budget, Cost, Size

MEASURED = [
    # logrows, rows, products: processor seconds of setup and of a proof, GB of the proof at its peak and of its key
    (Size(15, 5_642, 0), (4.5, 5.5, 0.26, 0.113)),
    (Size(15, 19_456, 16_052), (11.6, 13.7, 0.61, 0.290)),
    (Size(15, 140_800, 44_512), (34.6, 42.0, 1.82, 0.869)),
    (Size(16, 140_800, 44_512), (37.5, 50.2, 2.06, 0.944)),
    (Size(15, 182_272, 0), (24.6, 39.7, 1.51, 0.598)),
    (Size(15, 57_344, 78_468), (23.9, 26.9, 1.17, 0.598)),
]
CHAIN = [
    # the four circuits of ResNet-8 in a budget of 8 GB: processor seconds of a proof, GB at its peak
    (Size(15, 321_024, 210_820), (102.0, 4.83)),
    (Size(15, 331_776, 216_152), (114.1, 5.98)),
    (Size(15, 194_560, 145_628), (61.8, 2.92)),
    (Size(15, 78_186, 86_760), (37.2, 1.76)),
    # the three of the small network in 0.7 GB, and it as one
    (Size(15, 36_352, 11_488), (19.2, 0.82)),
    (Size(15, 19_456, 16_052), (13.9, 0.62)),
    (Size(15, 16_906, 24_420), (14.2, 0.60)),
    (Size(15, 81_930, 51_960), (29.8, 1.34)),
]


@pytest.mark.parametrize(("size", "measured"), MEASURED)
def test_they_are_those_of_the_circuits_that_were_measured(size, measured):
    found = Cost.of(size)
    assert (found.setup, found.prove, found.memory / 1e9, found.key / 1e9) == pytest.approx(measured, rel=0.22)


@pytest.mark.parametrize(("size", "measured"), CHAIN)
def test_the_chain_of_a_network_costs_what_was_measured(size, measured):
    found = Cost.of(size)
    assert (found.prove, found.memory / 1e9) == pytest.approx(measured, rel=0.2)


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
