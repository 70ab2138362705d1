"""`decentral logs`: what the nodes of a run wrote to their standard output and error."""

from __future__ import annotations

from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json


def logs(
    directory: RunArgument,
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="One node, such as peer-2.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the logs of all nodes, or of one."""
    from decentral.errors import UserError
    from decentral.registry import nearest
    from decentral.run.directory import open_cluster

    run = open_cluster(directory)
    files = run.log_files
    if node is not None and node not in files:
        raise UserError(f"{directory}: no log of a node {node!r}; {nearest(node, files)}")
    lines = {
        name: file.read_text(errors="replace").splitlines() for name, file in files.items() if node in (None, name)
    }
    if as_json:
        say_json(lines)
        return
    for name, written in lines.items():
        for line in written:
            say(line if node is not None else f"{name}  {line}")
