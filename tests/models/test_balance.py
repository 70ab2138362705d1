"""The dearest of the stages costs as little as it can, tried against every way to cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from decentral.errors import UserError
from decentral.models.balance import CROSSING, balanced, bytes_of, observe
from decentral.models.graphs import trace


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, list[float], list[int], list[bool]]:
    steps = draw(st.integers(1, 7))
    seconds = draw(st.lists(st.integers(0, 20).map(float), min_size=steps, max_size=steps))
    crossing = [
        int(CROSSING) * size for size in draw(st.lists(st.integers(0, 5), min_size=steps + 1, max_size=steps + 1))
    ]
    possible = draw(st.lists(st.booleans(), min_size=steps + 1, max_size=steps + 1))
    return draw(st.integers(1, 1 + sum(possible[1:-1]))), seconds, crossing, possible


def dearest(ends: list[int], seconds: list[float], crossing: list[int]) -> tuple[float, float]:
    """What the dearest stage costs, and what crosses in all."""
    paid = [0.0, *(crossing[end] / CROSSING for end in ends[:-1]), 0.0]
    costs = [
        sum(seconds[start:end]) + paid[stage] + paid[stage + 1]
        for stage, (start, end) in enumerate(pairwise([0, *ends]))
    ]
    return max(costs), sum(paid)


@given(problems())
def test_no_other_way_to_cut_is_better(problem: tuple[int, list[float], list[int], list[bool]]) -> None:
    count, seconds, crossing, possible = problem
    ends = balanced(*problem)
    steps = len(seconds)
    assert len(ends) == count
    assert ends[-1] == steps
    assert all(possible[end] for end in ends[:-1])
    assert all(start < end for start, end in pairwise([0, *ends]))
    able = [end for end in range(1, steps) if possible[end]]
    ways = [[*inner, steps] for inner in combinations(able, count - 1)]
    best = min(dearest(way, seconds, crossing)[0] for way in ways)
    assert dearest(ends, seconds, crossing)[0] == pytest.approx(best)


def test_of_equals_the_one_is_taken_over_which_less_crosses() -> None:
    assert balanced(2, [1.0, 0.0, 0.0, 1.0], [0, 9, 3, 6, 0], [True] * 5) == [2, 4]


@given(problems())
def test_more_stages_than_there_are_places_are_refused(problem: tuple[int, list[float], list[int], list[bool]]) -> None:
    _, seconds, crossing, possible = problem
    most = 1 + sum(possible[1 : len(seconds)])
    for count in (0, most + 1):
        with pytest.raises(UserError, match=f"1 to {most}"):
            balanced(count, seconds, crossing, possible)


@pytest.mark.parametrize("measured", [False, True])
def test_more_arithmetic_costs_more_and_sizes_are_those_of_the_tensors(measured: bool) -> None:
    network = nn.Sequential(nn.Linear(8, 2000), nn.Linear(2000, 2000), nn.ReLU(inplace=True)).eval()
    x = torch.randn(64, 8)
    with torch.no_grad():
        seen = {node.name: found for node, found in observe(trace(network), [x], measured).items()}
    assert all(seen[name].seconds > 0 for name in ("_0", "_1", "_2"))
    assert measured or seen["_1"].seconds > 10 * seen["_0"].seconds
    assert seen["_1"].bytes == 64 * 2000 * 4
    assert seen["input_1"].seconds == 0


def test_sizes_of_structures_are_summed() -> None:
    with torch.no_grad():
        seen = observe(trace(Chunks()), [torch.randn(4, 6)])
    value = next(found for node, found in seen.items() if node.target == "chunk")
    assert value.bytes == bytes_of(value.value) == 4 * 6 * 4


class Chunks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = x.chunk(2, 1)
        return one + two
