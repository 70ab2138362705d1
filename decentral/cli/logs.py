"""`decentral logs`: what the nodes of a run wrote to their standard output and error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json, say_now

FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on with what is written, until the cluster ends; JSON a line.")
]


def logs(
    directory: RunArgument,
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="One node, such as peer-2.")] = None,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print the logs of all nodes, or of one."""
    from decentral.errors import UserError
    from decentral.launch.observing.following import lines_of
    from decentral.registry import nearest
    from decentral.run.directory import open_cluster

    run = open_cluster(directory)
    if node is not None and node not in run.log_files:
        raise UserError(f"{directory}: no log of a node {node!r}; {nearest(node, run.log_files)}")

    def files() -> dict[str, Path]:
        return {name: file for name, file in run.log_files.items() if node in (None, name)}

    found = lines_of(files, lambda: follow and run.in_use)
    if as_json and not follow:
        lines: dict[str, list[str]] = {name: [] for name in files()}
        for name, line in found:
            lines[name].append(line)
        say_json(lines)
        return
    for name, line in found:
        if as_json:
            say(json.dumps(as_object(name, line)))
        else:
            say(line if node is not None else f"{name}  {line}")
        if follow:
            say_now()


def as_object(node: str, line: str) -> dict[str, Any]:
    """A line of a log that is for machines as it is; any other as what `node` said."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) and said.get("node") == node else {"node": node, "message": line}
