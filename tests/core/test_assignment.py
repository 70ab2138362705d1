"""Assignments in one level and in two: none scores higher, and what was planted is found."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.assignment import assign, assign_groups, assign_within
from decentral.core.permutation import (
    Group,
    Permutation,
    PermutationSpec,
    check_permutation,
    identity_permutation,
    random_permutation,
)

seeds = st.integers(0, 999)


@given(st.integers(1, 6), seeds)
def test_no_assignment_scores_higher(units: int, seed: int) -> None:
    scores = torch.randn(units, units, generator=torch.Generator().manual_seed(seed))
    best = max(sum(float(scores[k, p[k]]) for k in range(units)) for p in itertools.permutations(range(units)))
    assert sum(float(scores[k, source]) for k, source in enumerate(assign(scores))) == pytest.approx(best, abs=1e-5)


@given(st.permutations(range(8)))
def test_a_planted_assignment_is_found(planted: list[int]) -> None:
    scores = torch.full((8, 8), -0.2)
    for unit, source in enumerate(planted):
        scores[unit, source] = 0.9
    assert assign(scores) == tuple(planted)


@pytest.mark.parametrize("blank", [0.0, float("nan")])
def test_units_about_which_nothing_is_known_stay_in_place(blank: float) -> None:
    assert assign(torch.full((5, 5), blank)) == (0, 1, 2, 3, 4)
    scores = torch.full((5, 5), blank)
    scores[1, 2] = scores[2, 1] = 1.0
    assert assign(scores) == (0, 2, 1, 3, 4)


def test_nothing_to_assign_is_an_empty_assignment() -> None:
    assert assign(torch.zeros(0, 0)) == ()


# Heads with two units for Q and K and one for a scale; a grouped convolution; and a plain layer.
SPEC = PermutationSpec(
    groups=(
        Group("qk", 6, (), cells=3, order=0),
        Group("plain", 4, ()),
        Group("scale", 3, (), cells=3, order=0),
        Group("conv", 4, (), cells=2, order=1),
    ),
    axes=(),
)


def random_scores(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(group.units, group.units, generator=generator) for group in SPEC.groups]


def total(scores: list[Tensor], permutation: Permutation) -> float:
    pairs = zip(scores, permutation.sources, strict=True)
    return sum(float(score[range(len(sources)), list(sources)].sum()) for score, sources in pairs)


def everything() -> list[Permutation]:
    """All permutations of two heads of two units each and of their scales."""
    inner = list(itertools.permutations(range(2)))
    found = []
    for cells in itertools.permutations(range(3)):
        for within in itertools.product(inner, repeat=3):
            qk = tuple(cell * 2 + unit for cell, units in zip(cells, within, strict=True) for unit in units)
            found.append(Permutation((qk, (0, 1, 2, 3), cells, (0, 1, 2, 3))))
    return found


@given(seeds)
def test_no_assignment_in_two_levels_scores_higher(seed: int) -> None:
    scores = random_scores(seed)
    found = assign_groups(SPEC, scores)
    check_permutation(SPEC, found)
    of_heads = [scores[0], scores[2]]
    best = max(total(of_heads, Permutation((p.sources[0], p.sources[2]))) for p in everything())
    assert total(of_heads, Permutation((found.sources[0], found.sources[2]))) == pytest.approx(best, abs=1e-5)


@given(seeds)
def test_a_planted_permutation_is_found_from_its_own_scores(seed: int) -> None:
    planted = random_permutation(SPEC, torch.Generator().manual_seed(seed))
    noise = random_scores(seed)
    for scores, sources in zip(noise, planted.sources, strict=True):
        scores.mul_(0.01)[range(len(sources)), list(sources)] += 1.0
    assert assign_groups(SPEC, noise) == planted


@given(seeds)
def test_enough_inertia_keeps_cells_and_units_in_place(seed: int) -> None:
    assert assign_groups(SPEC, random_scores(seed), 100.0).is_identity
    one = assign_groups(SPEC, random_scores(seed), [100.0, 0.0, 100.0, 100.0])
    assert one.sources[0] == tuple(range(6))
    assert one.sources[1] == assign(random_scores(seed)[1])


@given(seeds)
def test_within_cells_that_stay_no_assignment_scores_higher(seed: int) -> None:
    group, scores = SPEC.groups[0], random_scores(seed)[0]
    found = assign_within(group, scores)
    staying = [p.sources[0] for p in everything() if p.sources[2] == (0, 1, 2)]
    assert found in staying
    reached = [float(scores[range(6), list(sources)].sum()) for sources in staying]
    assert float(scores[range(6), list(found)].sum()) == pytest.approx(max(reached), abs=1e-5)
    assert assign_within(SPEC.groups[1], random_scores(seed)[1]) == assign(random_scores(seed)[1])


def test_cells_about_which_nothing_is_known_stay_in_place() -> None:
    assert assign_groups(SPEC, [torch.zeros(group.units, group.units) for group in SPEC.groups]) == (
        identity_permutation(SPEC)
    )


def test_scores_of_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="not those of this specification"):
        assign_groups(SPEC, random_scores(0)[:-1])
    with pytest.raises(ValueError, match="not those of this specification"):
        assign_groups(SPEC, [*random_scores(0)[:-1], torch.zeros(2, 2)])
