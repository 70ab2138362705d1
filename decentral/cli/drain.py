"""`decentral drain`: a node of a cluster that stands ends without losing anything, or comes back."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json

SLACK = 10.0
"""Seconds beyond its own patience that a node gets to end."""
STARTING = 120.0
"""Seconds that it gets to serve again: it loads its model first."""


def drain(
    directory: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NODE", help="Its name.")],
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a node take nothing new, answer what it has begun, and end; clients go on with others.

    It stays away until --undo, or until the cluster goes down and up again.
    """
    from decentral.errors import DecentralError, UserError
    from decentral.launch.cluster import Cluster, is_running
    from decentral.launch.draining import PATIENCE, mark, unmark
    from decentral.launch.serving import parts_of
    from decentral.run.directory import open_cluster
    from decentral.run.journal import Tail

    run = open_cluster(directory)
    serving = {part.node for part in parts_of(run) if part.script}
    known = {member.name for member in Cluster.load(run.path).members} & serving
    if name not in known:
        raise UserError(f"{name}: no such node serves here; there are {', '.join(sorted(known)) or 'none'}")
    if not run.in_use:
        raise UserError(f"{run.path}: this cluster is not running")
    folder, tail = run.node(name), Tail(run.path, name)
    tail.poll()  # what it was told and did before

    def over() -> bool:
        if undo:
            return any(event["event"] == "serving" for event in tail.poll())
        return not is_running(folder)

    if undo:
        unmark(folder)
    else:
        mark(folder)
    ends = time.monotonic() + (STARTING if undo else PATIENCE + SLACK)
    while not over():
        if time.monotonic() > ends:
            raise DecentralError(f"{name} {'does not serve' if undo else 'has not ended'}; see its log: decentral logs")
        time.sleep(0.1)
    if as_json:
        say_json({"dir": str(directory), "node": name, "drained": not undo})
    elif undo:
        say(f"{name} is back")
    else:
        say(f"{name} has ended; it comes back with: decentral drain {directory} {name} --undo")
