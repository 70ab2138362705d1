"""The algebra of axes: whatever is joined, permuting all free atoms at will permutes joined axes alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.models.axes import Axis, AxisSystem, Run, expand


def order(system: AxisSystem, axis: Axis, drawn: dict[int, list[int]], seed: int) -> list[int]:
    """Where the entries of an axis come from when every free atom is permuted, each in a way of its own."""
    entries: list[int] = []
    for run in system.resolve(axis):
        units = system.units(run.atom)
        if run.atom not in drawn:
            generator = torch.Generator().manual_seed(seed + run.atom)
            free = torch.randperm(units, generator=generator).tolist()
            drawn[run.atom] = list(range(units)) if system.is_pinned(run.atom) else free
        start = len(entries)
        entries += [start + unit * run.repeat + place for unit in drawn[run.atom] for place in range(run.repeat)]
    return entries


layouts = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)


@given(st.lists(layouts, min_size=2, max_size=6), st.data())
def test_joined_axes_are_permuted_alike(shapes: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    system = AxisSystem()
    axes: list[Axis] = []
    for shape in shapes:
        runs = [Run(system.fresh(units)[0].atom, repeat) for units, repeat in shape]
        # Atoms of earlier axes come back, as they do when activations are read twice.
        if axes and data.draw(st.booleans()):
            runs += data.draw(st.sampled_from(axes))
        axes.append(tuple(runs))
    joined = []
    for first in axes:
        for second in axes:
            if system.size(first) == system.size(second) and data.draw(st.booleans()):
                system.join(first, second)
                joined.append((first, second))
    drawn: dict[int, list[int]] = {}
    for first, second in joined:
        assert order(system, first, drawn, 7) == order(system, second, drawn, 7)


def test_a_whole_axis_takes_over_the_parts_of_another() -> None:
    system = AxisSystem()
    a, b, whole = system.fresh(3), system.fresh(2), system.fresh(8)
    system.join(whole, (*expand(a, 2), *b))
    assert system.resolve(whole) == (Run(a[0].atom, 2), Run(b[0].atom))
    assert not system.is_fixed(whole)


def test_a_finer_axis_is_bound_to_a_coarser_one_from_either_side() -> None:
    for swapped in (False, True):
        system = AxisSystem()
        channels, features = system.fresh(4), system.fresh(12)
        pair = (expand(channels, 3), features)
        system.join(*(pair[::-1] if swapped else pair))
        assert system.resolve(features) == (Run(channels[0].atom, 3),)


def test_what_does_not_align_is_pinned_on_both_sides() -> None:
    system = AxisSystem()
    first, second = (*system.fresh(2), *system.fresh(4)), (*system.fresh(3), *system.fresh(3))
    system.join(first, second)
    assert system.is_fixed(first)
    assert system.is_fixed(second)


def test_aligned_parts_stay_free_beside_pinned_ones() -> None:
    system = AxisSystem()
    a, b, c = system.fresh(4), system.fresh(3), system.fixed(3)
    d = system.fresh(4)
    system.join((*a, *b), (*d, *c))
    assert not system.is_fixed(a)
    assert system.resolve(a) == system.resolve(d)
    assert system.is_fixed(b)


def test_pinning_reaches_everything_that_was_joined_before() -> None:
    system = AxisSystem()
    a, b, c = system.fresh(5), system.fresh(5), system.fresh(10)
    system.join(a, b)
    system.join(c, expand(b, 2))
    system.pin(c)
    assert system.is_fixed(a)


def test_an_axis_inside_itself_is_pinned() -> None:
    system = AxisSystem()
    a, b = system.fresh(4), system.fresh(4)
    system.join((*a, *b), expand(a, 2))
    assert system.is_fixed((*a, *b))


def test_a_single_unit_is_not_free() -> None:
    system = AxisSystem()
    assert system.is_fixed(system.fresh(1))
    assert not system.is_fixed(system.fresh(2))


def test_axes_of_different_sizes_cannot_be_joined() -> None:
    system = AxisSystem()
    with pytest.raises(ValueError, match="4 and 5 entries"):
        system.join(system.fresh(4), system.fresh(5))
