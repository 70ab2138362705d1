"""Parts answer what is for them, and compute off the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from decentral.errors import Malformed, Refusal
from decentral.serving.parts import check_address, served_by
from decentral.wire.clock import WallClock
from decentral.wire.conversation import Task


def test_a_task_for_another_part_or_another_digest_is_refused() -> None:
    check_address(Task("stage-1", bytes(32), {}), "stage-1", "00" * 32)
    for task in (Task("stage-2", bytes(32), {}), Task("stage-1", b"x" * 32, {})):
        with pytest.raises(Malformed) as refused:
            check_address(task, "stage-1", "00" * 32)
        assert refused.value.reason is Refusal.MODEL


async def test_work_is_done_off_the_event_loop_one_after_another() -> None:
    clock = WallClock()
    work, running, most = served_by(clock), 0, 0

    def compute() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1
        return threading.get_ident()

    try:
        threads = await asyncio.gather(*(work(compute) for _ in range(20)))
    finally:
        clock.close()
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    assert most == 1
