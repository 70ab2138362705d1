"""`decentral node`: one node of a cluster, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.observing import LogFormatOption, OwnMetricsOption, TraceOption, tell_nodes
from decentral.cli.output import JsonOption, RunArgument, say_json, say_now

IndexOption = Annotated[
    int | None, typer.Option(min=0, help="Which node to be. [default: the only one whose key is in DIR]")
]
ListenOption = Annotated[
    str | None, typer.Option("--listen", metavar="HOST", help="Where to listen, as 0.0.0.0. [default: at its address]")
]
FromOption = Annotated[
    Path | None, typer.Option("--from", metavar="FOLDER", help="Makes DIR first, of the files that are mounted there.")
]
KeysOption = Annotated[
    Path | None, typer.Option("--keys", metavar="FOLDER", help="Where the node's keys are mounted. [default: --from]")
]
StayOption = Annotated[bool, typer.Option("--stay", help="Answer health checks after the last round too.")]


def node(
    directory: RunArgument,
    index: IndexOption = None,
    listen: ListenOption = None,
    source: FromOption = None,
    keys: KeysOption = None,
    stay: StayOption = False,
    metrics: OwnMetricsOption = None,
    trace: TraceOption = None,
    log_format: LogFormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be one node of a run directory that `prepare` made.

    The process becomes the node: signals and the exit code are its own (2: it could not use what it was given). JSON
    says which node it is before it starts.
    """
    from decentral.errors import UserError
    from decentral.launch.alone import become, command_of, member_of
    from decentral.launch.apart import hand_over

    tell_nodes(trace, log_format)
    if source is not None:
        member = hand_over(source, keys or source, directory)
        if index not in (None, member.index):
            raise UserError(f"--index {index}: the keys in {keys or source} are those of {member.name}")
    elif keys is not None:
        raise UserError("--keys is where the keys are of a node whose other files are in --from FOLDER")
    else:
        member = member_of(directory, index)
    if as_json:
        say_json({"node": member.name, "index": member.index, "address": member.address})
        say_now()  # what this process has not written is gone when it becomes another
    become(command_of(directory, member, listen, stay, metrics))
