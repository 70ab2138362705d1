"""The algebra of axes: whatever was asked for, permuting all that is left free at will permutes joined axes alike."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.models.axes import FIXED, Axis, AxisSystem


class Draw:
    """A random permutation of all that a system leaves free: cells change places whole, units within their cell."""

    def __init__(self, system: AxisSystem, seed: int):
        self._system, self._random, self._image = system, random.Random(seed), {FIXED: FIXED}

    def image(self, unit: int) -> int:
        if unit not in self._image:
            kind = self._system.kind(unit)
            order, members = self._system.order(kind), self._system.members(kind)
            cells = [0] if order is None else self._system.members(order)
            places = [0] if order is None else [cells.index(self.image(cell)) for cell in cells]
            size = len(members) // len(cells)
            for cell, to in enumerate(places):
                images = members[to * size : (to + 1) * size]
                self._image |= zip(
                    members[cell * size : (cell + 1) * size], self._random.sample(images, size), strict=True
                )
        return self._image[unit]

    def order(self, axis: Axis) -> list[int]:
        """For every entry of an axis (of all axes that share its arrays), the entry from which it comes."""
        flat = self._system.resolve(axis).flat()
        entries = list(zip(flat.units.tolist(), flat.labels.tolist(), strict=True))
        free = [entry for entry in entries if entry[0] != FIXED]
        assert len(set(free)) == len(free)
        return [
            place if unit == FIXED else entries.index((self.image(unit), label))
            for place, (unit, label) in enumerate(entries)
        ]


def free(system: AxisSystem, axis: Axis) -> int:
    """Entries that may change places."""
    units = [unit for unit in system.resolve(axis).units.ravel().tolist() if unit != FIXED]
    return sum(len(system.members(system.kind(unit))) > 1 for unit in units)


def repeated(system: AxisSystem, axis: Axis, times: int, *, fastest: bool = True) -> Axis:
    parts = [axis, system.fixed(times)] if fastest else [system.fixed(times), axis]
    merged = system.merge(parts)
    assert merged is not None
    return merged


layouts = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.booleans()), min_size=1, max_size=3)
seeds = st.integers(0, 999)


def built(system: AxisSystem, layout: list[tuple[int, int, bool]]) -> Axis:
    return system.concatenate(
        [repeated(system, system.fresh(units), times, fastest=fastest) for units, times, fastest in layout]
    )


@given(st.lists(layouts, min_size=2, max_size=6), st.data())
def test_joined_axes_are_permuted_alike(shapes: list[list[tuple[int, int, bool]]], data: st.DataObject) -> None:
    system = AxisSystem()
    axes: list[Axis] = []
    for shape in shapes:
        axis = built(system, shape)
        # Units of earlier axes come back, as they do when activations are read twice.
        if axes and data.draw(st.booleans()):
            axis = system.concatenate([axis, data.draw(st.sampled_from(axes))])
        if data.draw(st.booleans()) and axis.size % 2 == 0:
            system.outer(axis.rows(2))
        if data.draw(st.booleans()) and axis.size > 2:
            axis = system.select([axis], 0, slice(data.draw(st.integers(0, 2)), None))[0]
        axes.append(axis)
    joined = []
    for first in axes:
        for second in axes:
            if first.size == second.size and data.draw(st.booleans()):
                system.join(first, second)
                joined.append((first, second))
    drawn = Draw(system, 7)
    for first, second in joined:
        assert drawn.order(first) == drawn.order(second)
    for axis in axes:
        assert sorted(drawn.order(axis)) == list(range(axis.size))


@given(layouts, st.integers(2, 4), seeds)
def test_rows_in_cells_move_whole(layout: list[tuple[int, int, bool]], rows: int, seed: int) -> None:
    system = AxisSystem()
    axis = built(system, layout * rows)
    outer = system.outer(axis.rows(rows))
    drawn = Draw(system, seed)
    size = axis.size // rows
    sources = [source // size for source in drawn.order(axis)]
    assert sources == [row for row in drawn.order(outer) for _ in range(size)]


@given(st.integers(2, 4), st.integers(2, 4), st.integers(2, 3), seeds)
def test_cells_of_joined_axes_move_alike_and_their_units_differently(
    cells: int, first: int, second: int, seed: int
) -> None:
    system = AxisSystem()
    one, other = system.fresh(cells * first), system.fresh(cells * second)
    system.join(system.outer(one.rows(cells)), system.outer(other.rows(cells)))
    drawn = Draw(system, seed)
    assert [source // first for source in drawn.order(one)[::first]] == [
        source // second for source in drawn.order(other)[::second]
    ]
    assert free(system, one) == one.size
    assert free(system, other) == other.size
    assert system.order(system.kind(int(one.units[0]))) == system.order(system.kind(int(other.units[0])))


@given(st.integers(2, 5), st.integers(2, 5), seeds)
def test_a_shuffle_keeps_every_unit_free_and_halves_split_it(groups: int, size: int, seed: int) -> None:
    system = AxisSystem()
    parts = [system.fresh(size) for _ in range(groups)]
    shuffled = system.merge(system.part(system.concatenate(parts), [groups, size])[::-1])
    assert shuffled is not None
    assert free(system, shuffled) == groups * size
    drawn = Draw(system, seed)
    own = [drawn.order(part) for part in parts]
    assert drawn.order(shuffled) == [
        own[group][unit] * groups + group for unit in range(size) for group in range(groups)
    ]
    half = system.select([shuffled], 0, slice(groups * size // 2))[0]
    drawn = Draw(system, seed)
    assert all(source < half.size for source in drawn.order(shuffled)[: half.size])


def test_a_whole_axis_takes_over_the_parts_of_another() -> None:
    system = AxisSystem()
    a, b, whole = system.fresh(3), system.fresh(2), system.fresh(8)
    system.join(whole, system.concatenate([repeated(system, a, 2), b]))
    assert free(system, whole) == 8
    drawn = Draw(system, 3)
    assert [source // 2 for source in drawn.order(whole)[:6:2]] == drawn.order(a)


def test_a_finer_axis_is_bound_to_a_coarser_one_from_either_side() -> None:
    for swapped in (False, True):
        system = AxisSystem()
        channels, features = system.fresh(4), system.fresh(12)
        pair = (repeated(system, channels, 3), features)
        system.join(*(pair[::-1] if swapped else pair))
        drawn = Draw(system, 1)
        assert drawn.order(features)[::3] == [3 * source for source in drawn.order(channels)]
        assert free(system, features) == 12


def test_parts_that_overlap_are_split_where_both_end() -> None:
    system = AxisSystem()
    first = system.concatenate([system.fresh(2), system.fresh(4)])
    second = system.concatenate([system.fresh(4), system.fresh(2)])
    system.join(first, second)
    assert [len(system.members(system.kind(int(unit)))) for unit in system.resolve(first).units] == [2] * 6


def test_free_parts_stay_free_beside_pinned_ones() -> None:
    system = AxisSystem()
    a, b, c, d = system.fresh(4), system.fresh(3), system.fixed(3), system.fresh(4)
    system.join(system.concatenate([a, b]), system.concatenate([d, c]))
    assert free(system, a) == 4
    assert system.is_fixed(b)


def test_pinning_reaches_everything_that_was_joined_before() -> None:
    system = AxisSystem()
    a, b, c = system.fresh(5), system.fresh(5), system.fresh(10)
    system.join(a, b)
    system.join(c, repeated(system, b, 2))
    system.pin([c])
    assert system.is_fixed(a)


def test_pinning_a_unit_keeps_its_cell_in_place_and_the_others_in_theirs() -> None:
    system = AxisSystem()
    axis = system.fresh(6)
    outer = system.outer(axis.rows(3))
    system.pin(system.select([axis], 0, slice(0, 1)))
    assert free(system, outer) == 2
    drawn = Draw(system, 0)
    assert drawn.order(axis)[:2] == [0, 1]
    assert drawn.order(outer)[0] == 0


def test_cells_within_cells_stay_in_place() -> None:
    system = AxisSystem()
    axis = system.fresh(8)
    system.outer(axis.rows(4))
    system.outer(axis.rows(2))
    for seed in range(5):
        order = Draw(system, seed).order(axis)
        assert [source // 2 for source in order] == [place // 2 for place in range(8)]


def test_an_axis_inside_itself_is_pinned() -> None:
    system = AxisSystem()
    a = system.fresh(4)
    system.join(a, system.concatenate(system.select([a], 0, slice(1, 4)) + system.select([a], 0, slice(0, 1))))
    assert free(system, a) == 0


def test_a_single_unit_is_not_free() -> None:
    system = AxisSystem()
    assert system.is_fixed(system.fresh(1))
    assert not system.is_fixed(system.fresh(2))


def test_axes_of_different_sizes_cannot_be_joined() -> None:
    system = AxisSystem()
    with pytest.raises(ValueError, match="4 and 5 entries"):
        system.join(system.fresh(4), system.fresh(5))
