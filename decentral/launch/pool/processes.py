"""Workers as processes of this machine, from start to end. They keep nothing: whoever asks ends them at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from decentral.errors import DecentralError
from decentral.launch.nodes import KEEP_MEMORY
from decentral.run.recipe import Recipe

REPORTING = 2.0
"""Seconds that the processes' parent gets to say how one of them has ended."""
SAID = 2000
"""Characters of what they printed that an error repeats."""


class Process:
    """The way to one process."""

    def __init__(self, number: int, connection: Connection, printed: IO[bytes], ending: threading.Event) -> None:
        """`printed`: what all processes print. `ending`: set once they are ended on purpose."""
        self._number, self._connection, self._printed, self._ending = number, connection, printed, ending

    def ask(self, question: bytes) -> bytes:
        """Raises DecentralError where the process has ended, or ends now."""
        try:
            self._connection.send_bytes(question)
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise DecentralError(
                f"worker {self._number} of the simulator has ended, and with it the models of its peers; if memory ran "
                f"out, use fewer --workers. Go on from the last checkpoints with --resume\n{self._heard()}".rstrip()
            ) from None

    def prepared(self, recipe: Recipe, plugins: Sequence[Path]) -> tuple[Recipe, Sequence[str]]:
        """All is where it is."""
        return recipe, [str(plugin.resolve()) for plugin in plugins]

    def close(self) -> None:
        self._connection.close()

    def _heard(self) -> str:
        """The end of what the processes printed, which may take them a moment."""
        ends = time.monotonic() + REPORTING
        while not (said := read(self._printed)) and time.monotonic() < ends and not self._ending.wait(0.02):
            continue
        return said


def read(printed: IO[bytes]) -> str:
    """The end of a file that is being written, without moving where it is written."""
    size = os.fstat(printed.fileno()).st_size
    return os.pread(printed.fileno(), SAID, max(size - SAID, 0)).decode(errors="replace")


@contextlib.contextmanager
def processes(count: int) -> Iterator[list[Process]]:
    """`count` workers, for as long as the body runs. They end with this process, however that ends.

    In a session of their own: Ctrl-C reaches this process alone.
    """
    with tempfile.TemporaryFile() as printed, contextlib.ExitStack() as held:
        pairs = [socket.socketpair() for _ in range(count)]
        theirs = [other.fileno() for _, other in pairs]
        parent = subprocess.Popen(
            [sys.executable, "-P", "-m", "decentral.launch.pool.program", str(os.getpid()), *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=printed,
            env={**KEEP_MEMORY, **os.environ},
            pass_fds=theirs,
            start_new_session=True,
        )
        for _, other in pairs:
            other.close()
        ending = threading.Event()
        ways = [Process(number, Connection(own.detach()), printed, ending) for number, (own, _) in enumerate(pairs)]
        for way in ways:
            held.callback(way.close)
        held.callback(end, parent)
        held.callback(ending.set)
        yield ways


def end(parent: subprocess.Popen[bytes]) -> None:
    """The whole session, its parent first: it is not to tell of the others' ends."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
