"""A node drains when a signal or a mark says so, and a mark keeps it away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from decentral.launch.draining import drained, is_marked, mark, unmark
from decentral.launch.ending import Told
from decentral.run.journal import Journal, read


class Transport:
    """Notes how it was drained."""

    def __init__(self) -> None:
        self.sessions: list[bool] = []

    async def drain(self, patience: float, *, sessions: bool = False) -> bool:
        self.sessions.append(sessions)
        return patience > 0


@pytest.mark.parametrize(("by", "sessions"), [("signal", False), ("mark", True)])
async def test_what_is_told_is_done_and_written_down(by: str, sessions: bool, tmp_path: Path) -> None:
    transport, told = Transport(), Told()
    with Journal(tmp_path / "events.jsonl", 0, time.monotonic) as journal:
        draining = asyncio.create_task(drained(transport, tmp_path, journal, told, sessions=True))
        await asyncio.sleep(0.01)
        assert not draining.done() and transport.sessions == []
        if by == "signal":
            told.event.set()
        else:
            mark(tmp_path)
        await asyncio.wait_for(draining, 20.0)
    assert told.event.is_set() and told.heeded and transport.sessions == [sessions]
    events = [dict(event) for event in read(tmp_path / "events.jsonl")]
    assert [event["event"] for event in events] == ["draining", "drained"] and events[1]["whole"] is True


def test_a_mark_is_there_until_it_is_taken_away(tmp_path: Path) -> None:
    assert not is_marked(tmp_path)
    mark(tmp_path)
    mark(tmp_path)
    assert is_marked(tmp_path)
    unmark(tmp_path)
    unmark(tmp_path)
    assert not is_marked(tmp_path)
