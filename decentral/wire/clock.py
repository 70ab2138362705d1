"""Time as a peer sees it: the wall in a deployment, a number in the simulator.

`work` is the only way to run torch: off the event loop in a deployment; in the simulator it completes at start plus
modelled time, so that the result never depends on when a thread happened to end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import CancelledError as Dropped
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


def worker(name: str) -> ThreadPoolExecutor:
    """A thread that computes, one job after another, with as many threads as torch was told to use."""
    return ThreadPoolExecutor(1, name, _as_told)


def _as_told() -> None:
    """Products in a new thread take all that OpenMP has, whatever torch was told, until it counts its threads there."""
    import torch

    torch.get_num_threads()


class Clock(Protocol):
    """Seconds since the start of the run, waiting, and work that takes time."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    async def work(self, fn: Callable[[], T], modelled_seconds: float) -> T:
        """The result of `fn`, a blocking function; `modelled_seconds` is what it takes in the simulator.

        Cancelled, it does not wait for `fn`, which goes on to its own end before the peer's next work begins.
        """
        ...


class WallClock:
    """Real time, one worker thread: a peer's work never overlaps itself, so its global random state is its own."""

    def __init__(self, elapsed: float = 0.0) -> None:
        """`elapsed`: seconds that the run has already taken."""
        self._started = asyncio.get_running_loop().time() - elapsed
        self._worker = worker("work")

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def work(self, fn: Callable[[], T], modelled_seconds: float) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, fn)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


class VirtualClock:
    """Time of a virtual event loop; one clock per simulated peer, all on one loop and one worker thread.

    Work starts on the worker at once and its result is handed over when virtual time reaches start + modelled time.
    Waiting there for the thread blocks the loop on purpose: virtual time must stand still until the result exists.
    Without a worker the work is done at once on the loop's own thread: for work that is next to nothing.
    """

    def __init__(self, worker: ThreadPoolExecutor | None, started: float = 0.0) -> None:
        self._worker = worker
        self._started = started

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def work(self, fn: Callable[[], T], modelled_seconds: float) -> T:
        if self._worker is None:
            result = fn()
            await asyncio.sleep(max(modelled_seconds, 0.0))
            return result
        job = self._worker.submit(fn)
        try:
            await asyncio.sleep(max(modelled_seconds, 0.0))
        except asyncio.CancelledError:
            with contextlib.suppress(Dropped):
                job.exception()  # waits for it: whether it has been done must not depend on the thread
            raise
        try:
            return job.result()
        except Dropped:  # the worker was shut down, and its work with it: nobody failed
            raise asyncio.CancelledError from None
