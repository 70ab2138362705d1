"""`decentral add`: another node for a cluster of diffusion experts, with an expert of another run or as a replica."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json
from decentral.errors import RunDirectoryError, UserError


def add(
    directory: RunArgument,
    expert: Annotated[
        Path | None, typer.Argument(metavar="[EXPERT]", help="The folder of an expert, as diffusers saved it.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A router that knows it, its cluster the last one.")
    ] = None,
    replica_of: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Instead: another node that serves expert-N.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a node to a finished run of diffusion experts; the next `decentral up` serves it too.

    An expert of another run joins the ensemble with a router that was fitted again. Where two nodes serve the same
    expert, the second one goes on when the first one dies.
    """
    from decentral.launch.guests import add_expert, add_replica
    from decentral.run.directory import RunDirectory

    if (expert is None) == (replica_of is None):
        raise UserError("add: give the folder of an expert, or --replica-of N")
    if expert is None and router is not None:
        raise UserError("add: --router belongs to an expert that is added; a replica changes nothing for the router")
    opened = RunDirectory.open(directory)
    if opened.in_use:
        raise RunDirectoryError(f"{directory}: is up; end it with: decentral down {directory}")
    with opened.hold() as run:
        part = add_expert(run, expert, router) if expert is not None else add_replica(run, int(replica_of or 0))
    if as_json:
        say_json({"dir": str(directory), "node": part.node, "part": part.name, "digest": part.digest})
    else:
        say(f"{part.node} of {directory} will serve {part.name}")
