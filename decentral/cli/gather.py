"""`decentral gather`: the results of a run whose peers had machines of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json

FoldersArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FOLDER]...", help="Copies of the peers' run directories. [default: those in DIR/apart]"),
]


def gather(directory: RunArgument, folders: FoldersArgument = None, as_json: JsonOption = False) -> None:
    """Bring together what peers have written on their machines, with a summary and a report.

    Finished or not: it tells what has happened so far.
    """
    from decentral.cli.progress import result_lines
    from decentral.launch.gathering import gather as bring
    from decentral.run.directory import RunDirectory

    run = RunDirectory.open(directory)
    summary = bring(run, folders or ())
    if as_json:
        say_json(summary)
        return
    for line in result_lines(summary):
        say(line)
    say(f"written    {run.path}  (open {run.report_file} in a browser)")
