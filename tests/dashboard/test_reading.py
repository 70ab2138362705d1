"""Journals are read in the order of time, all of them and each line once, however little is read at once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decentral.dashboard import reading as module
from decentral.dashboard.reading import LEAST, Reading
from decentral.run.journal import journals


def journal(folder: Path, name: str) -> Path:
    path = folder / "nodes" / name / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def line(at: float, peer: int, number: int, more: str = "") -> str:
    return json.dumps({"t": at, "peer": peer, "event": "x", "number": number, "more": more}) + "\n"


def read_all(reading: Reading) -> list[Any]:
    found: list[Any] = []
    while fresh := reading.poll():
        found += fresh
    return found


@given(st.lists(st.lists(st.floats(0, 100), max_size=30), min_size=1, max_size=4), st.integers(0, 400))
def test_every_line_comes_once_and_in_the_order_of_time(clocks: list[list[float]], padding: int) -> None:
    """Clocks only go forward here; lines are so long that no journal is read at once."""
    with tempfile.TemporaryDirectory() as name:
        folder, written = Path(name), []
        for peer, clock in enumerate(clocks):
            lines = [line(at, peer, number, "x" * padding) for number, at in enumerate(sorted(clock))]
            journal(folder, f"peer-{peer}").write_text("".join(lines))
            written += lines
        found = read_all(Reading(folder, most=1))
    assert [event["t"] for event in found] == sorted(event["t"] for event in found)
    assert sorted(json.dumps(event) + "\n" for event in found) == sorted(written)
    for peer in range(len(clocks)):
        numbers = [event["number"] for event in found if event["peer"] == peer]
        assert numbers == sorted(numbers)


def test_no_more_is_read_at_once_than_may_be(tmp_path: Path) -> None:
    for peer in range(4):
        journal(tmp_path, f"peer-{peer}").write_text("".join(line(n, peer, n) for n in range(5000)))
    reading, most = Reading(tmp_path, most=4 * LEAST), 0
    found = 0
    while fresh := reading.poll():
        most, found = max(most, len(fresh)), found + len(fresh)
    assert found == 20_000
    assert most <= 2 * 4 * LEAST // len(line(1, 1, 1))


def test_it_follows_journals_that_grow_and_a_half_line_waits(tmp_path: Path) -> None:
    path = journal(tmp_path, "peer-0")
    path.write_text(line(1, 0, 1) + '{"t": 2, ')
    reading = Reading(tmp_path)
    assert [event["number"] for event in read_all(reading)] == [1]
    with path.open("a") as file:
        file.write('"peer": 0, "event": "x", "number": 2}\n')
    assert [event["number"] for event in read_all(reading)] == [2]
    journal(tmp_path, "peer-1").write_text(line(3, 1, 3))
    assert [event["number"] for event in read_all(reading)] == [3]


def test_a_journal_that_was_cut_is_read_on_from_its_end(tmp_path: Path) -> None:
    path = journal(tmp_path, "peer-0")
    path.write_text(line(1, 0, 1) + line(2, 0, 2))
    reading = Reading(tmp_path)
    assert len(read_all(reading)) == 2
    path.write_text(line(1, 0, 1))
    assert read_all(reading) == []
    with path.open("a") as file:
        file.write(line(5, 0, 7))
    assert [event["number"] for event in read_all(reading)] == [7]


def test_a_damaged_line_stops_nobody_and_a_line_without_an_end_neither(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "LONGEST", 2 * LEAST)
    path = journal(tmp_path, "peer-0")
    path.write_text(
        line(1, 0, 1) + "no line\n" + "[" * 3000 + "\n" + line(2, 0, 2) + "x" * (3 * LEAST) + "\n" + line(3, 0, 3)
    )
    found = read_all(Reading(tmp_path, most=1))
    assert [event["number"] for event in found if isinstance(event, dict)] == [1, 2, 3]
    assert found.count(None) >= 3


def test_it_reads_what_the_library_writes(tmp_path: Path) -> None:
    journal(tmp_path, "launcher").write_text(line(0, 0, 0))
    assert len(read_all(Reading(tmp_path))) == len(journals(tmp_path)) == 1
