"""For long, and while replicas die: every request is answered once and rightly, or refused in so many words."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import torch

from tests.serving.soak import KILLED, crowd, inputs, standing, through_deaths

REQUESTS = 1000
SECONDS = float(os.environ.get("DECENTRAL_SOAK_SECONDS", "60"))
GROWTH = 64 << 20
"""Bytes that a replica may grow by while it is asked: a leak of one small answer each would be more."""
LATEST = 20.0
"""Seconds: no goal, but what can only be a request that was forgotten."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_replica_of_each_stage_is_killed_and_every_request_is_answered_once_and_rightly(tmp_path: Path) -> None:
    batches = inputs(REQUESTS)
    with standing(tmp_path) as up:
        found = asyncio.run(through_deaths(up, batches))
        assert len(found.outputs) == REQUESTS
        expected = up.expected(torch.cat(batches)).unbind()
        for output, right in zip(found.outputs, expected, strict=True):
            torch.testing.assert_close(output[0], right, rtol=0, atol=1e-5)  # a batch is rounded in another way
        assert len({tuple(right.tolist()) for right in expected}) == REQUESTS, "else one could stand for another"
        assert up.ids(KILLED) <= found.noticed, "nobody was missed"
    ordered = sorted(found.seconds)
    print(f"seconds for an answer: median {ordered[REQUESTS // 2]:.3f}, p99 {ordered[REQUESTS * 99 // 100]:.3f}")
    assert ordered[-1] < LATEST


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_crowd_is_answered_rightly_in_turn_and_nothing_grows(tmp_path: Path) -> None:
    with standing(tmp_path) as up:
        found = asyncio.run(crowd(up, seconds=SECONDS))
    print(f"{found.answered / found.wall:.1f} answers a second, {found.busy} waits, {found.growth() >> 20} MiB grown")
    assert found.answered > 0 and not found.wrong
    assert found.sent == found.answered + sum(found.refused.values())
    assert not found.busy, (
        "whoever has more under way than a session may have waits for its turn, and asks nobody twice"
    )
    assert not found.refused
    assert found.growth() < GROWTH
