"""`decentral report`: the page of a run, or one that compares several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.output import JsonOption, say, say_json

if TYPE_CHECKING:
    from decentral.run.directory import RunDirectory

COMPARISON = Path("comparison.html")

RunsArgument = Annotated[list[Path], typer.Argument(metavar="DIR...", help="A run directory; several are compared.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help=f"Where the comparison is written. [default: {COMPARISON}]"),
]


TensorBoardOption = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="FOLDER", help="Write the run's curves there for TensorBoard, and no page."),
]


def report(
    directories: RunsArgument,
    out: OutOption = None,
    tensorboard: TensorBoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the HTML page of a run, or one page that compares several.

    Finished or not: the page tells what happened so far. Its path is printed.
    """
    from decentral.errors import UserError
    from decentral.run.comparison import write_comparison
    from decentral.run.directory import RunDirectory
    from decentral.run.report import write_report

    if tensorboard is not None:
        if len(directories) > 1 or out is not None:
            raise UserError("--tensorboard is of one run, and writes no page; name a folder for each")
        file = curves(RunDirectory.open(directories[0]), tensorboard)
    elif len(directories) > 1:
        file = write_comparison(directories, out or COMPARISON)
    elif out is None:
        file = write_report(RunDirectory.open(directories[0]))
    else:
        raise UserError("--out is for comparisons: the page of one run belongs to its directory")
    if as_json:
        say_json({"report": str(file)})
    else:
        say(str(file))


def curves(run: RunDirectory, folder: Path) -> Path:
    """Writes them, of what has happened so far. Raises UserError."""
    from decentral.run.course import course
    from decentral.run.journal import Tail
    from decentral.run.scalars import Scalars

    scalars, events = Scalars(folder), Tail(run.path).poll()
    for event in events:
        scalars(event)
    scalars.mean(course(run.recipe, events))
    return folder
