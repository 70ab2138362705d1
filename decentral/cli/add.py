"""`decentral add`: another node for a cluster of diffusion experts, with an expert of another run or as a replica."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json
from decentral.errors import RunDirectoryError, UserError

if TYPE_CHECKING:
    from decentral.launch.nodes import Part
    from decentral.run.directory import RunDirectory


def add(
    directory: RunArgument,
    expert: Annotated[
        Path | None, typer.Argument(metavar="[EXPERT]", help="The folder of an expert, as diffusers saved it.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A router that knows it, its cluster the last one.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the router's head here, on the images of both runs.")
    ] = False,
    replica_of: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Instead: another node that serves expert-N.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a node to a finished run of diffusion experts: now if it is up, or else with the next `decentral up`.

    An expert of another run joins the ensemble with a router that was fitted again; clients that are at work go on
    without it. Where two nodes serve the same expert, the second one goes on when the first one dies.
    """
    from decentral.launch.background import await_change
    from decentral.launch.changes import changing
    from decentral.launch.guests import add_expert, add_replica
    from decentral.run.directory import RunDirectory
    from decentral.run.journal import Tail

    if (expert is None) == (replica_of is None):
        raise UserError("add: give the folder of an expert, or --replica-of N")
    if expert is None and (refit or router is not None):
        option = "--refit" if refit else "--router"
        raise UserError(f"add: {option} belongs to an expert that is added; a replica changes nothing for the router")
    if refit and router is not None:
        raise UserError("add: --refit makes the router that --router would name")
    run = RunDirectory.open(directory)

    def prepare(up: bool) -> Part:
        if expert is None:
            return add_replica(run, int(replica_of or 0))
        if not refit:
            return add_expert(run, expert, router, standing=up)
        from decentral.launch.refit import refit as fit

        with tempfile.TemporaryDirectory(prefix="decentral-") as place:
            return add_expert(run, expert, fit(run, expert, Path(place)), standing=up)

    with changing(run):
        if up := standing(run):
            tail = Tail(run.path)
            tail.poll()
            part = prepare(up)
            await_change(run, tail, part.node, "joined")
        else:
            with run.hold():
                part = prepare(up)
    if as_json:
        say_json({"dir": str(directory), "node": part.node, "part": part.name, "digest": part.digest})
    else:
        say(f"{part.node} of {directory} {'serves' if up else 'will serve'} {part.name}")


def standing(run: RunDirectory) -> bool:
    """Whether a launcher has it serve. Raises RunDirectoryError where one is at something else."""
    if not run.in_use:
        return False
    from decentral.trust.anchors import FILE, Anchors

    trust = run.path / FILE
    if not trust.exists() or not any(peer.part for peer in Anchors.load(trust).peers):
        raise RunDirectoryError(f"{run.path}: is up, but does not serve; wait, or end it: decentral down {run.path}")
    return True
