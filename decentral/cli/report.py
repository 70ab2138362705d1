"""`decentral report`: the page of a run, or one that compares several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, say, say_json

COMPARISON = Path("comparison.html")

RunsArgument = Annotated[list[Path], typer.Argument(metavar="DIR...", help="A run directory; several are compared.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help=f"Where the comparison is written. [default: {COMPARISON}]"),
]


def report(directories: RunsArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Write the HTML page of a run, or one page that compares several.

    Finished or not: the page tells what happened so far. Its path is printed.
    """
    from decentral.errors import UserError
    from decentral.run.comparison import write_comparison
    from decentral.run.directory import RunDirectory
    from decentral.run.report import write_report

    if len(directories) > 1:
        file = write_comparison(directories, out or COMPARISON)
    elif out is None:
        file = write_report(RunDirectory.open(directories[0]))
    else:
        raise UserError("--out is for comparisons: the page of one run belongs to its directory")
    if as_json:
        say_json({"report": str(file)})
    else:
        say(str(file))
