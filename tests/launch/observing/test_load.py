"""A node that is asked nothing writes nothing; how it stood at the end is always written."""

from __future__ import annotations

import asyncio

from decentral.errors import Refusal
from decentral.launch.observing.load import noting_load
from decentral.run.journal import Journal, read
from decentral.run.metrics import ANSWERS, Metrics
from decentral.wire.tally import Tally


async def test_who_is_asked_nothing_writes_nothing(tmp_path):
    with Journal(tmp_path / "events.jsonl", 0, lambda: 0.0) as journal:
        async with noting_load(Tally(), journal, 0.001):
            await asyncio.sleep(0.02)
    assert read(tmp_path / "events.jsonl") == []


async def test_the_same_is_not_written_twice_and_the_end_is(tmp_path):
    tally = Tally()
    with Journal(tmp_path / "events.jsonl", 0, lambda: 0.0) as journal:
        async with noting_load(tally, journal, 0.001):
            tally.sessions, tally.waiting = 1, 1
            await asyncio.sleep(0.05)
            tally.sessions, tally.waiting, tally.answered = 0, 0, 1
            tally.refused[Refusal.BUSY] += 1
    first, last = read(tmp_path / "events.jsonl")
    assert (first["waiting"], last["waiting"], last["answered"]) == (1, 0, 1)
    assert last["refused"] == {"BUSY": 1}
    metrics = Metrics()
    metrics.take_all([first, last])
    assert metrics.values(ANSWERS)["peer-0", "answered"] == 1
