"""Work takes its modelled time in the simulator and its own in a deployment."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import async_solipsism
import pytest

from decentral.wire.clock import VirtualClock, WallClock

COUNTED = """
import os, sys, threading, torch
from decentral.wire.clock import worker
torch.set_num_threads(1)
tasks = lambda: len(os.listdir("/proc/self/task"))
with worker("one") as one:
    before = one.submit(tasks).result()
    one.submit(lambda: torch.randn(512, 256) @ torch.randn(256, 256)).result()
    print(tasks() - before)
"""
"""How many threads a product on a worker starts."""


def test_virtual_work_ends_at_start_plus_modelled_time_however_long_its_thread_took() -> None:
    finished: list[tuple[str, float]] = []

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as worker:
            clock = VirtualClock(worker)

            async def run(name: str, real: float, modelled: float) -> None:
                await clock.work(lambda: time.sleep(real), modelled)
                finished.append((name, clock.now()))

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run("slow thread, short model", 0.05, 1.0))
                tasks.create_task(run("quick thread, long model", 0.0, 3.0))
                tasks.create_task(run("no time at all", 0.0, 0.0))

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(scenario())
    assert finished == [
        ("no time at all", 0.0),
        ("slow thread, short model", 1.0),
        ("quick thread, long model", 3.0),
    ]


def test_virtual_time_passes_only_by_waiting() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as worker:
            clock = VirtualClock(worker)
            time.sleep(0.01)  # noqa: ASYNC251
            assert clock.now() == 0.0
            await clock.sleep(3600.0)
            assert clock.now() == 3600.0

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("virtual", [True, False])
def test_what_work_returns_or_raises_comes_back_from_another_thread(virtual: bool) -> None:
    def failing() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as worker:
            clock = VirtualClock(worker) if virtual else WallClock()
            assert await clock.work(threading.get_ident, 1.0) != threading.get_ident()
            with pytest.raises(ZeroDivisionError):
                await clock.work(failing, 1.0)
            if isinstance(clock, WallClock):
                clock.close()

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop if virtual else None) as runner:
        runner.run(scenario())


async def test_the_wall_clock_never_blocks_the_loop_nor_overlaps_the_work_of_one_peer() -> None:
    clock = WallClock()
    running, overlapped = threading.Lock(), []

    def job() -> None:
        overlapped.append(not running.acquire(blocking=False))
        time.sleep(0.02)
        running.release()

    jobs = [asyncio.ensure_future(clock.work(job, 0.0)) for _ in range(3)]
    before = clock.now()
    await clock.sleep(0)
    assert not any(task.done() for task in jobs)
    await asyncio.gather(*jobs)
    assert clock.now() > before
    assert overlapped == [False] * 3
    clock.close()


def test_virtual_work_that_is_given_up_has_been_done_whatever_its_thread_was_at() -> None:
    done: list[str] = []

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as worker:
            clock = VirtualClock(worker)
            busy = asyncio.ensure_future(clock.work(lambda: time.sleep(0.05), 9.0))
            queued = asyncio.ensure_future(clock.work(lambda: done.append("queued"), 9.0))
            await clock.sleep(1.0)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            assert (done, clock.now()) == (["queued"], 1.0)
            await busy

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("given_up", [True, False])
def test_work_that_nobody_will_do_any_more_holds_nobody_up_and_is_no_failure(given_up: bool) -> None:
    async def scenario() -> None:
        worker = ThreadPoolExecutor(1)
        clock = VirtualClock(worker)
        jobs = [asyncio.ensure_future(clock.work(lambda: time.sleep(0.05), 9.0)) for _ in range(3)]
        await clock.sleep(1.0)
        worker.shutdown(wait=False, cancel_futures=True)
        for job in jobs if given_up else ():
            job.cancel()
        await asyncio.wait(jobs)
        assert jobs[0].cancelled() is given_up, "it had begun, and was done"
        assert all(job.cancelled() for job in jobs[1:])

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(scenario())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted by the kernel")
def test_a_worker_s_products_take_as_many_threads_as_torch_was_told() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    bare = COUNTED.replace("worker(", "ThreadPoolExecutor(").replace('("one")', "(1)")
    bare = bare.replace("decentral.wire.clock import worker", "concurrent.futures import ThreadPoolExecutor")
    started = [
        int(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout)
        for code in (COUNTED, bare)
    ]
    assert started[0] == 0
    assert started[1] > 0  # what it is for: without it the test could not fail
