"""The launcher's side of a simulated processor: its process is there before the nodes, and after them.

It holds keys that nodes must not have, and so it is no child of their fork server. It ends when its standard input
does, however the launcher ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from decentral import locate
from decentral.errors import DecentralError, UserError
from decentral.launch.attesting import simulates
from decentral.launch.ending import CANNOT
from decentral.launch.nodes import STOPPING, read_end
from decentral.run.directory import AnyDirectory
from decentral.run.journal import Journal

NAME, SCRIPT = "quoting", "quoting.py"
"""Of its folder among those of the nodes, where its log is; of its program."""
STARTING = 60.0
"""Seconds in which it has to listen: on a slow machine it takes long to measure what is installed."""
FIRST_PAUSE, LONGEST_PAUSE, SETTLED = 0.1, 10.0, 300.0
"""Seconds before it is started again, doubled each time unless it has lasted so long."""


def quoting_for(directory: AnyDirectory, journal: Journal) -> AbstractAsyncContextManager[asyncio.Event | None]:
    """The same where nodes show evidence of a processor that is played; else nothing."""
    return quoting(directory, journal) if simulates(directory.recipe.attestation) else contextlib.nullcontext()


@contextlib.asynccontextmanager
async def quoting(directory: AnyDirectory, journal: Journal) -> AsyncIterator[asyncio.Event]:
    """The process for as long as the body runs, started again if it ends meanwhile; the event is when it first listens.

    Raises a group with UserError, in its words, for what it cannot use, or with DecentralError if it does not start.
    """
    listens = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(_keep(directory, journal, listens))
        try:
            yield listens
        finally:
            keeping.cancel()


async def _keep(directory: AnyDirectory, journal: Journal, listens: asyncio.Event) -> None:
    pause = FIRST_PAUSE
    while True:
        began = time.monotonic()
        try:
            async with _running(directory) as process:
                journal.record("quoting", process=process.pid, simulated=True)
                listens.set()
                journal.record("unquoted", code=await process.wait())
        except DecentralError as error:
            if not listens.is_set():
                raise
            journal.record("unquoted", problem=str(error))  # nodes go on with the sessions that they have
        pause = FIRST_PAUSE if time.monotonic() - began > SETTLED else pause
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


@contextlib.asynccontextmanager
async def _running(directory: AnyDirectory) -> AsyncIterator[Process]:
    """Once it listens; it has ended afterwards. Raises UserError, DecentralError."""
    directory.node(NAME)
    log = directory.log_file(NAME)
    command = ["-P", str(locate.folder("nodes") / SCRIPT), "--dir", str(directory.path), "--attached"]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which ends it last
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        try:
            async with asyncio.timeout(STARTING):
                if not await process.stdout.readline():
                    problem = f"the simulated processor does not start:\n{read_end(log)}".strip()
                    raise (UserError if await process.wait() == CANNOT else DecentralError)(problem)
        except TimeoutError:
            raise DecentralError(f"the simulated processor did not start within {STARTING:.0f} s; see {log}") from None
        yield process
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(STOPPING):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
