"""Calls of ezkl in a process of their own, which may use so much memory and time and ends with who asked.

ezkl is synchronous, takes all cores, and aborts its process when memory runs out: none of that reaches an event loop.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from decentral.errors import Unproven, UserError

PROGRAM = "decentral.zk.backend"
GLANCE = 0.05
"""Seconds between two looks at a worker's memory."""
SLACK = 2**30
"""Bytes that the kernel grants above the limit: between two looks ezkl may pass it."""
LONGEST_REPLY = 2**28
SAID = 400
"""Characters of what ezkl printed that an error repeats."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_WORDS = tuple(os.strerror(number) for number in FULL)
NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a call may use: bytes of memory, seconds, cores by number (none: all), bytes of a file (0: any), niceness.

    There are as many threads as cores.
    """

    memory: int = 8 * 2**30
    seconds: float = 3600
    cores: tuple[int, ...] = ()
    file: int = 0
    nice: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds and bytes that a call took; `peak` is that of its process since it started."""

    wall: float
    cpu: float
    peak: int


class DiskFull(UserError):
    """Nothing more can be written where a call wanted to."""


class Worker:
    """One process of `backend`; calls come one after another. Made by `worker`."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits, printed: IO[bytes]) -> None:
        self._process, self._limits, self._printed = process, limits, printed
        self._turn = asyncio.Lock()
        self._why: str | None = None
        self.usage = Usage(0, 0, 0)
        """Of the last call."""

    async def call(self, name: str, /, *, deadline: float | None = None, **arguments: Any) -> Any:
        """What `backend.<name>` gives. `deadline`: seconds for this call instead of those of the limits.

        Raises Unproven where ezkl refused, or memory or time ran out: then the process has been ended, and this worker
        is of no more use. DiskFull where a file could not be written. A call that is cancelled ends the process too.
        """
        seconds = self._limits.seconds if deadline is None else deadline
        async with self._turn:
            if self._why is not None:
                raise Unproven(self._why)
            try:
                reply = await self._asked(name, arguments, seconds)
            except BaseException:
                self._end("the process that calls ezkl has been ended")
                raise
        self.usage = Usage(reply["wall"], reply["cpu"], reply["peak"])
        if "error" in reply:
            said, kind = str(reply["error"]), reply["kind"]
            if reply.get("errno") in FULL or any(words in said for words in FULL_WORDS):
                raise DiskFull(f"ezkl could not write while it was at {name!r}: {said}")
            if kind == "memory":
                raise Unproven(self._too_large(name))
            raise Unproven(f"ezkl, at {name!r}: {said}{'' if kind == 'RuntimeError' else f' ({kind})'}")
        return reply["result"]

    async def _asked(self, name: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        line = b""
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                try:
                    self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}).encode() + b"\n")
                    await self._process.stdin.drain()
                    line = await self._process.stdout.readline()
                except (ConnectionError, BrokenPipeError):
                    line = b""
                finally:
                    watch.cancel()
        except TimeoutError:
            raise Unproven(
                f"ezkl was not done with {name!r} after {seconds:g} s: allow more time, use more cores, or cut the "
                "model into smaller stages"
            ) from None
        if line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line)
            return found
        code = await self._process.wait()
        if self._why is not None or code in (-signal.SIGABRT, -signal.SIGKILL):
            raise Unproven(self._too_large(name))
        raise Unproven(f"the process that calls ezkl ended with {code} at {name!r}: {self._last_words()}")

    async def _watch(self) -> None:
        """Ends the process when it has more memory than it may have; where nobody tells, the kernel's limit does."""
        while (resident := _resident(self._process.pid)) is not None:
            if resident > self._limits.memory:
                self._end("memory ran out")
                return
            await asyncio.sleep(GLANCE)

    def _end(self, why: str) -> None:
        self._why = why
        if self._process.returncode is None:
            self._process.kill()

    def _too_large(self, name: str) -> str:
        return (
            f"ezkl needs more than the {self._limits.memory / 2**30:.1f} GiB that it may have for {name!r}: allow more "
            "memory, or cut the model into smaller stages"
        )

    def _last_words(self) -> str:
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace").strip()[-SAID:] or "it said nothing"

    async def close(self) -> None:
        """Waits for the end of a process that has been killed, however often it is cancelled meanwhile."""
        self._end("this worker is closed")
        if await _to_its_end(asyncio.ensure_future(self._process.wait())):
            raise asyncio.CancelledError


@asynccontextmanager
async def worker(limits: Limits | None = None, *, online: bool = False) -> AsyncIterator[Worker]:
    """A process that is ended with the block, whatever it is doing. `online`: it may fetch files."""
    limits = limits or Limits()
    scratch = tempfile.mkdtemp(prefix="decentral-zk-")
    environment = {**os.environ, "TMPDIR": scratch, "EZKL_REPO_PATH": scratch, "RUST_LOG": "error"}
    if limits.cores:
        environment["RAYON_NUM_THREADS"] = str(len(limits.cores))
    if not online:
        environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    bounds = (os.getpid(), limits.memory + SLACK, limits.file, *limits.cores)
    command = [sys.executable, "-P", "-m", PROGRAM, *map(str, bounds)]
    if limits.nice:
        command = ["nice", "-n", str(limits.nice), *command]
    try:
        with tempfile.TemporaryFile() as printed:
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=printed,
                    env=environment,
                    limit=LONGEST_REPLY,
                )
            )
            cancelled = await _to_its_end(starting)
            started = Worker(starting.result(), limits, printed)
            try:
                if cancelled:
                    raise asyncio.CancelledError
                yield started
            finally:
                await started.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


async def _to_its_end(future: asyncio.Future[Any]) -> bool:
    """Waits for what takes a moment, and leaves a process behind if it is left; whether it was cancelled meanwhile."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def _resident(process: int) -> int | None:
    """Bytes of memory that a process has now; None where that cannot be told."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


async def once(name: str, limits: Limits | None = None, **arguments: Any) -> tuple[Any, Usage]:
    """One call in a process of its own, whose peak of memory is then that call's."""
    async with worker(limits) as alone:
        result = await alone.call(name, **arguments)
        return result, alone.usage
