"""What has not the form of an event is not taken for one, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from decentral.dashboard.sound import MOST_PEERS, MOST_TEXT, clipped, sound
from tests.dashboard import events

EVALUATED = {"t": 1.0, "peer": 0, "event": "evaluated", "round": 1, "accuracy": 0.5, "loss": None}


@given(events.sound)
def test_what_peers_write_is_sound(event: dict[str, Any]) -> None:
    assert sound(event)


@given(events.json)
def test_anything_can_be_looked_at(event: Any) -> None:
    assert sound(event) in (True, False)


@pytest.mark.parametrize(
    "changed",
    [
        {"t": "soon"},
        {"t": float("nan")},
        {"t": 1e300},
        {"peer": None},
        {"peer": -1},
        {"peer": MOST_PEERS},
        {"peer": True},
        {"event": 3},
        {"round": 1.5},
        {"round": -1},
        {"round": 2**60},
        {"accuracy": "0.9"},
        {"accuracy": 1e300},
        {"event": "round", "bytes": {"total": 1, "more": 2}},
        {"event": "round", "bytes": {"model": 1}},
        {"event": "round", "bytes": [1]},
        {"event": "phase", "phase": "x" * (MOST_TEXT + 1)},
        {"event": "crashed", "other": "peer-1"},
        {"event": "merged", "weights": {"a": 1}, "seconds": 0},
        {"event": "sampled", "participants": [MOST_PEERS], "aggregators": [], "candidates": 1, "view": ""},
    ],
)
def test_a_field_of_another_kind_makes_it_unsound(changed: dict[str, Any]) -> None:
    assert sound(EVALUATED)
    assert not sound({**EVALUATED, **changed})


@pytest.mark.parametrize("field", sorted(EVALUATED))
def test_a_field_that_is_missing_makes_it_unsound(field: str) -> None:
    lacking = {key: value for key, value in EVALUATED.items() if key != field}
    assert not sound(lacking)


def test_events_of_tomorrow_are_sound_and_long_texts_are_cut() -> None:
    assert sound({"t": 0, "peer": 3, "event": "something new", "what": [1]})
    assert clipped("x" * 1000) == "x" * (MOST_TEXT - 1) + "…"
    assert clipped("short") == "short"
