"""A child ends with who started it, and a task when its process is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from decentral.lifetime import end_on_sigterm


@pytest.mark.parametrize("parent", ["lives", "has been killed already"])
def test_a_child_that_is_late_ends_with_a_parent_that_was_quick(parent: str) -> None:
    """Between the fork and the child's word to the kernel the fork server may be killed."""
    program = f"""
import os, signal, time
from decentral.lifetime import die_with_parent
server = os.getpid()
reading, writing = os.pipe()
child = os.fork()
if child:
    os.close(reading)
    if {parent == "lives"}:
        os.write(writing, b"go")
        os.waitpid(child, 0)
    os.kill(server, signal.SIGKILL)
os.close(writing)
os.read(reading, 2)
while {parent != "lives"} and os.getppid() == server:
    time.sleep(0.001)  # the pipe is closed before the kernel gives the child another parent
die_with_parent(server)
print("on", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (ended.stdout, ended.stderr) == (b"on\n" if parent == "lives" else b"", b"")


async def test_sigterm_cancels_the_task_that_asked_for_it_and_no_other() -> None:
    other = asyncio.create_task(asyncio.sleep(60))

    async def told() -> None:
        end_on_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(told())
        assert not other.done()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        other.cancel()
