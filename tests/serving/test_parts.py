"""Parts answer what is for them, and compute off the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from decentral.errors import Malformed, Refusal
from decentral.serving.parts import check_address, check_batch, served_by, within_memory
from decentral.wire.clock import WallClock
from decentral.wire.conversation import Task


def test_a_task_for_another_part_or_another_digest_is_refused() -> None:
    check_address(Task("stage-1", bytes(32), {}), "stage-1", "00" * 32)
    for task in (Task("stage-2", bytes(32), {}), Task("stage-1", b"x" * 32, {})):
        with pytest.raises(Malformed) as refused:
            check_address(task, "stage-1", "00" * 32)
        assert refused.value.reason is Refusal.MODEL


def test_a_batch_that_is_too_large_is_refused() -> None:
    check_batch(8, 8)
    with pytest.raises(Malformed, match="9 samples; 8 at most") as refused:
        check_batch(9, 8)
    assert refused.value.reason is Refusal.TOO_LARGE


def test_whose_memory_runs_out_is_busy_and_other_errors_are_what_they_are() -> None:
    with pytest.raises(Malformed) as refused, within_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert refused.value.reason is Refusal.BUSY
    with pytest.raises(Malformed) as refused, within_memory():
        torch.empty(1 << 60, dtype=torch.uint8)
    assert refused.value.reason is Refusal.BUSY
    with pytest.raises(RuntimeError, match="must match"), within_memory():
        torch.ones(2) + torch.ones(3)


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
