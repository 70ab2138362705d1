"""What a peer is at follows its journal, and what it was at has a beginning and an end."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decentral.dashboard.work import PHASES, Work
from tests.dashboard import events


def told(*lines: tuple[float, str, dict[str, Any]], draws: bool = False) -> tuple[Work, list[tuple[str, float, float]]]:
    work, spans = Work(draws=draws), []
    for at, name, fields in lines:
        event = {"t": at, "peer": 0, "event": name, "round": 1, **fields}
        spans += [(span.what, span.start, span.end) for span in work.take(event)]
    return work, spans


def test_phases_end_where_the_next_begin() -> None:
    work, spans = told(
        (0, "started", {}),
        (1, "phase", {"phase": "train"}),
        (2, "trained", {}),
        (2, "phase", {"phase": "exchange"}),
        (5, "exchanged", {}),
        (5, "phase", {"phase": "merge"}),
        (6, "merged", {"seconds": 1.0}),
        (6, "round", {}),
    )
    assert spans == [("train", 1, 2), ("exchange", 2, 5), ("merge", 5, 6)]
    assert (work.of(0), work.since(0)) == ("waiting", 6)
    assert work.of(1) == "starting"


def test_a_crash_ends_what_was_under_way_and_being_away_ends_with_the_return() -> None:
    work, spans = told((1, "phase", {"phase": "train"}), (3, "crashed", {"peer": None, "other": 0}), (8, "started", {}))
    assert spans == [("train", 1, 3), ("away", 3, 8)]
    assert work.of(0) == "waiting"


def test_who_is_drawn_hands_over_until_it_has_sent() -> None:
    work, spans = told(
        (0, "phase", {"phase": "train"}),
        (2, "trained", {}),
        (3, "sent", {"tag": "local"}),
        (9, "merged", {"seconds": 2.0}),
        (10, "sent", {"tag": "average"}),
        draws=True,
    )
    assert spans == [("train", 0, 2), ("exchange", 2, 3), ("merge", 7, 10)]
    assert work.of(0) == "waiting"


@given(st.lists(events.sound), st.booleans())
def test_spans_are_of_known_work_and_never_end_before_they_begin(some: list[dict[str, Any]], draws: bool) -> None:
    work = Work(draws=draws)
    for event in some:
        for span in work.take(event):
            assert span.what in (*PHASES, "away")
            assert span.start < span.end
