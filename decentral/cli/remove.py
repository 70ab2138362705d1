"""`decentral remove`: an expert, or one of the nodes that serve it, leaves a cluster of diffusion experts."""

from __future__ import annotations

from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json


def remove(
    directory: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An expert (expert-2), or one node (peer-5).")],
    as_json: JsonOption = False,
) -> None:
    """Take an expert, or one of several nodes that serve it, out of a cluster, which may be up.

    Clients that are at work end with it; those that come afterwards are not told of it. The others share its weight.
    """
    from decentral.cli.add import standing
    from decentral.launch.background import await_change
    from decentral.launch.changes import changing
    from decentral.launch.guests import remove as take_away
    from decentral.run.directory import RunDirectory
    from decentral.run.journal import Tail

    run = RunDirectory.open(directory)
    with changing(run):
        if standing(run):
            tail = Tail(run.path)
            tail.poll()
            gone = take_away(run, name, standing=True)
            for part in gone:
                await_change(run, tail, part.node, "left")
        else:
            with run.hold():
                gone = take_away(run, name)
    if as_json:
        say_json({"dir": str(directory), "nodes": [part.node for part in gone], "part": gone[0].name})
    else:
        say(f"{', '.join(part.node for part in gone)} of {directory} will serve {gone[0].name} no more")
