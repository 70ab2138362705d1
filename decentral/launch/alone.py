"""One node that is started by itself, where no launcher of ours is: which one it is, and its process.

A process manager of another kind (a container engine, a batch system) starts `decentral node`, which becomes the same
program of `nodes/` that every launcher starts, in the same environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from decentral import locate
from decentral.algorithms.presence import Member
from decentral.errors import UserError
from decentral.launch.cluster import Cluster
from decentral.launch.forkserver import ONE_THREAD, USUAL
from decentral.launch.nodes import KEEP_MEMORY
from decentral.run.directory import RunDirectory, open_cluster
from decentral.wire.identity import IDENTITY


def member_of(path: Path, index: int | None) -> Member:
    """The node of that index; None: the only one whose key lies in the run directory. Raises UserError."""
    directory, members = open_cluster(path), Cluster.load(path).members
    if index is not None:
        if not 0 <= index < len(members):
            raise UserError(f"--index {index}: {path} has the nodes 0 to {len(members) - 1}")
        return members[index]
    here = [member for member in members if (directory.nodes / member.name / IDENTITY).exists()]
    if len(here) != 1:
        raise UserError(f"{path}: has the keys of {len(here)} nodes; say with --index which of them to be")
    return here[0]


def command_of(path: Path, member: Member, listen: str | None, stay: bool, metrics: str | None = None) -> list[str]:
    """What starts a node. `stay`: a training peer goes on to answer health checks after its last round."""
    trains = isinstance(open_cluster(path), RunDirectory)
    script = str(locate.folder("nodes") / ("peer.py" if trains else "stage.py"))
    command = [sys.executable, "-P", script, "--dir", str(path), "--index", str(member.index)]
    command += ["--listen", listen] if listen else []
    command += ["--metrics", metrics] if metrics else []
    return [*command, *(("--stay",) if stay and trains else ())]


def environment() -> dict[str, str]:
    """Of a node: what changes results or costs is the same as under a launcher."""
    return {**KEEP_MEMORY, **USUAL, **os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}


def become(command: list[str]) -> NoReturn:
    """This process goes on as that one, so that signals and the exit code are the node's own."""
    os.execve(command[0], command, environment())  # noqa: S606  no shell is between
