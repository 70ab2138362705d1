"""A lock is one holder's, ends with it, and does not feel who looks at it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from decentral import lock


@pytest.fixture(params=["of the open file", "shared for an instant"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the locks of this system, and with those that all have."""
    if request.param == "shared for an instant":
        monkeypatch.setattr(lock, "_OWNED", False)
    monkeypatch.setattr(lock, "TRYING", 0.2)


def taken(path: Path) -> int:
    held = lock.take(path)
    assert held is not None
    return held


@pytest.mark.usefixtures("kind")
def test_a_lock_is_one_holders_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not lock.is_held(path) and not path.exists()
    for _ in range(2):
        held = taken(path)
        assert lock.is_held(path)
        assert lock.take(path) is None
        assert lock.is_held(path), "who looked, or tried in vain, has taken nothing away"
        os.close(held)
        assert not lock.is_held(path)


@pytest.mark.usefixtures("kind")
def test_a_program_that_the_holder_starts_does_not_hold_it(tmp_path: Path) -> None:
    held = taken(tmp_path / "lock")
    command, pipes = [sys.executable, "-c", "print(flush=True); input()"], {"stdin": -1, "stdout": -1}
    with subprocess.Popen(command, **pipes, close_fds=False) as child:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        os.close(held)
        assert not lock.is_held(tmp_path / "lock")
        child.communicate(b"\n")


@pytest.mark.usefixtures("kind")
def test_looking_all_the_time_never_keeps_anybody_from_taking_it(tmp_path: Path) -> None:
    path, ended, looks = tmp_path / "lock", threading.Event(), [0, 0]

    def look(number: int) -> None:
        while not ended.is_set():
            lock.is_held(path)
            looks[number] += 1

    lookers = [threading.Thread(target=look, args=(number,)) for number in range(2)]
    for looker in lookers:
        looker.start()
    try:
        taken_so_far, ends = 0, time.monotonic() + 60
        while taken_so_far < 300 or (min(looks) < 50 and time.monotonic() < ends):  # a busy machine starves a thread
            held = taken(path)
            assert lock.is_held(path)
            os.close(held)
            taken_so_far += 1
    finally:
        ended.set()
        for looker in lookers:
            looker.join()
    assert min(looks) >= 50


@pytest.mark.usefixtures("kind")
async def test_who_waits_for_a_lock_has_it_when_it_is_free_and_waits_no_longer_than_told(tmp_path: Path) -> None:
    held = taken(tmp_path / "lock")
    with pytest.raises(TimeoutError):
        await lock.taken(tmp_path / "lock", 0.05)
    waiting = asyncio.create_task(lock.taken(tmp_path / "lock", 30))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    os.close(held)
    os.close(await waiting)


def test_who_waits_in_a_thread_has_it_when_it_is_free_and_waits_no_longer_than_told(tmp_path: Path) -> None:
    held = taken(tmp_path / "lock")
    with pytest.raises(TimeoutError, match=r"lock: has been held by somebody else for 0\.05 s"):
        lock.taken_here(tmp_path / "lock", 0.05)
    ending = threading.Timer(0.1, os.close, [held])
    ending.start()
    os.close(lock.taken_here(tmp_path / "lock", 30))
    ending.join()


async def test_who_waits_for_a_lock_can_be_told_to_stop(tmp_path: Path) -> None:
    held = taken(tmp_path / "lock")
    waiting = asyncio.create_task(lock.taken(tmp_path / "lock", 30))
    await asyncio.sleep(0.05)
    waiting.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    os.close(held)
    assert not lock.is_held(tmp_path / "lock"), "who waited holds nothing"
