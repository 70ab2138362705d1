"""A cluster that runs in the background: its launcher's process, and how it is told to end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from decentral.errors import DecentralError, UserError
from decentral.files import write_atomic
from decentral.run.directory import RunDirectory

STOPPING = 20.0
"""Seconds that a launcher gets to end its nodes and to write down what came of the run."""


def _pid_file(run: RunDirectory) -> Path:
    return run.node("launcher") / "pid"


def note_launcher(run: RunDirectory) -> None:
    """Writes down that this process launches the run."""
    write_atomic(_pid_file(run), str(os.getpid()).encode())


def launcher_pid(run: RunDirectory) -> int | None:
    """The process that runs a cluster, None if there is none: the lock tells, since a pid may be another's by now."""
    return int(_pid_file(run).read_text()) if run.in_use and _pid_file(run).exists() else None


def stop(run: RunDirectory) -> None:
    """Ends a cluster and waits for its last word. Raises UserError if it is not running."""
    pid = launcher_pid(run)
    if pid is None:
        raise UserError(f"{run.path}: this cluster is not running")
    os.kill(pid, signal.SIGTERM)
    ends = time.monotonic() + STOPPING
    while run.in_use:
        if time.monotonic() > ends:
            raise DecentralError(f"{run.path}: the launcher (process {pid}) did not end within {STOPPING:.0f} s")
        time.sleep(0.05)
