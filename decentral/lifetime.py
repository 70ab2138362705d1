"""When a process ends: with who started it, however that ends, and when it is told to."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def die_with_parent(parent: int) -> None:
    """On Linux the kernel ends this process when `parent` ends from now on; one that was too late ends itself."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_on_sigterm() -> None:
    """SIGTERM cancels the task that calls this, as Ctrl-C does the one that `asyncio.run` runs."""
    this = asyncio.current_task()
    assert this is not None, "called by no task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """The same, while the body runs, for a loop of virtual time, which hears of no signals itself.

    In another thread than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    this, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert this is not None, "called by no task"
    before = signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(this.cancel))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
