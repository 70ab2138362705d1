"""Lists that grow stay bounded, and whoever takes what is new has what there is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decentral.dashboard.series import Curve, Ring

MOST = 16


def taken(before: dict[str, Any] | None, end: dict[str, Any] | None) -> dict[str, Any]:
    """As the page does: see `store.js`."""
    before = before or {"first": 0, "items": []}
    if end is None:
        return before
    first = before["first"] if before["items"] else end["from"]
    items = [*before["items"][: max(0, end["from"] - first)], *end["items"]]
    return {"first": max(first, end["first"]), "items": items[max(0, end["first"] - first) :]}


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5), st.booleans())))
def test_a_reader_of_a_curve_that_looks_now_and_then_has_the_curve(puts: list[tuple[int, int, bool]]) -> None:
    curve, seen, had = Curve(MOST), 0, None
    for revision, (x, y, looks) in enumerate(puts, start=1):
        curve.put(x, y, revision)
        assert len(curve.items) <= MOST
        if looks:
            had, seen = taken(had, curve.since(seen)), revision
    had = taken(had, curve.since(seen))
    assert had["items"] == curve.items == (curve.since(0) or {"items": []})["items"]
    assert [x for x, _ in curve.items] == sorted({x for x, _ in curve.items})


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans())))
def test_a_reader_of_a_ring_that_looks_now_and_then_has_the_newest(steps: list[tuple[int, bool, bool]]) -> None:
    ring: Ring[int] = Ring(8)
    seen, had = 0, None
    for revision, (item, changes, looks) in enumerate(steps, start=1):
        if changes and ring.items:
            ring.change(len(ring.items) - 1 - item % min(3, len(ring.items)), item, revision)
        else:
            ring.add(item, revision)
        assert len(ring.items) <= 10
        if looks:
            had, seen = taken(had, ring.since(seen)), revision
    assert taken(had, ring.since(seen))["items"] == ring.items


def test_what_a_reader_has_is_not_sent_again() -> None:
    curve = Curve(MOST)
    for x in range(5):
        curve.put(x, x, x + 1)
    assert curve.since(5) is None
    assert curve.since(3) == {"first": 0, "from": 3, "items": [(3, 3), (4, 4)]}


def test_a_long_curve_keeps_its_course_and_its_end() -> None:
    curve = Curve(64)
    for x in range(10_000):
        curve.put(x, 2 * x, x + 1)
    xs = [x for x, _ in curve.items]
    assert 16 <= len(xs) < 64
    assert xs[-1] == 9999
    gaps = [after - before for before, after in pairwise(xs)]
    assert max(gaps) <= 2 * 256
    assert all(y == 2 * x for x, y in curve.items)


def test_a_point_that_comes_again_replaces_the_one_before_and_an_old_one_does_not() -> None:
    curve = Curve(512)
    for x in range(100):
        curve.put(x, 0, x + 1)
    curve.put(90, 7, 101)
    curve.put(3, 7, 102)
    assert dict(curve.items)[90] == 7
    assert dict(curve.items)[3] == 0
