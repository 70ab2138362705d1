"""Advisory locks that last as long as their process, and can be looked at without being touched.

Where the operating system has locks of an open file (Linux), a look asks it who holds one. Elsewhere a look shares the
lock for an instant, so taking one is tried for a while.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time
from pathlib import Path

_FLOCK = struct.Struct("@hhqqi0q")
"""C's `struct flock`: type, whence, start, length (0: all of it), process."""
_OWNED = hasattr(fcntl, "F_OFD_SETLK")
TRYING = 0.5
"""Seconds, where a look may be in the way."""
WAIT, WAIT_HERE = 0.1, 0.01
"""Seconds between two tries of who waits; in a thread, where the wait may be short."""


def take(path: Path, mode: int = 0o600) -> int | None:
    """An open file whose lock is held until it is closed or the process ends; None if somebody else holds it.

    `mode`: of the file, if it is made. It is not inherited by programs that this process starts. Raises OSError where
    the file cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    ends = time.monotonic() + TRYING
    while True:
        try:
            if _OWNED:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if _OWNED or time.monotonic() > ends:
                os.close(descriptor)
                return None
            time.sleep(0.01)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor


async def taken(path: Path, seconds: float) -> int:
    """The same, once whoever holds it lets go of it. Raises TimeoutError where nobody does within `seconds`, OSError.

    One that waits in a thread instead could not be told to end.
    """
    async with asyncio.timeout(seconds):
        while (held := take(path)) is None:  # noqa: ASYNC110  who holds it is another process
            await asyncio.sleep(WAIT)
        return held


def taken_here(path: Path, seconds: float, mode: int = 0o600) -> int:
    """The same for who has a thread to wait in. Raises TimeoutError, OSError."""
    ends = time.monotonic() + seconds
    while (held := take(path, mode)) is None:
        if time.monotonic() > ends:
            raise TimeoutError(f"{path}: has been held by somebody else for {seconds:g} s")
        time.sleep(WAIT_HERE)
    return held


def is_held(path: Path) -> bool:
    """Whether anybody holds the lock. Nobody who takes it meanwhile is hindered."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if _OWNED:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _whole_file(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)
