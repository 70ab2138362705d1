"""What happened is told in words, and what is told by many is told once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decentral.dashboard.told import MOST, Told
from tests.dashboard import events


def entries(*some: dict[str, Any], names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    told = Told(names)
    for revision, event in enumerate(some, start=1):
        told.take({"t": 1.0, "peer": None, **event}, revision)
    return told.ring.items


def test_who_crashed_and_who_was_refused_and_why() -> None:
    found = entries(
        {"event": "crashed", "other": 3},
        {"event": "refused", "peer": 1, "other": 2, "round": 4, "reason": "STALE_ROUND"},
        {"event": "rejoined", "other": 3},
        {"event": "failed", "peer": 0, "problem": "no room on the disk"},
        {"event": "phase", "peer": 0, "round": 1, "phase": "train"},
    )
    assert [(entry["text"], entry["tone"]) for entry in found] == [
        ("peer-3 crashed", "bad"),
        ("peer-2 refused a message of peer-1 in round 4: STALE_ROUND", "bad"),
        ("peer-3 rejoined", "good"),
        ("peer-0 failed: no room on the disk", "bad"),
    ]


def test_nodes_are_called_what_they_are_called() -> None:
    assert entries({"event": "crashed", "other": 1}, names=("stage-0-a", "stage-0-b"))[0]["text"] == "stage-0-b crashed"


def test_what_many_tell_is_one_entry_that_counts_and_what_happens_twice_is_two() -> None:
    lost = [{"event": "lost", "peer": peer, "other": 9, "round": 2} for peer in range(6)]
    found = entries(*lost, {"event": "crashed", "other": 9}, {"event": "crashed", "other": 9})
    assert [(entry["kind"], entry["count"]) for entry in found] == [("lost", 6), ("crashed", 1), ("crashed", 1)]


def test_what_a_peer_writes_stays_one_short_line() -> None:
    (found,) = entries({"event": "failed", "peer": 0, "problem": "\x1b[31m<b>one\ntwo" + "x" * 5000})
    assert "\n" not in found["text"]
    assert "\x1b" not in found["text"]
    assert len(found["text"]) <= 300


@given(st.lists(events.sound, min_size=1, max_size=20))
def test_there_are_never_many_entries(some: list[dict[str, Any]]) -> None:
    assert len(entries(*(40 * some))) <= 1.25 * MOST
