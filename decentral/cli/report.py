"""`decentral report`: the page of a run."""

from __future__ import annotations

from decentral.cli.output import JsonOption, RunArgument, say, say_json


def report(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Write the HTML page of a run.

    Finished or not: the page tells what happened so far. Its path is printed.
    """
    from decentral.run.directory import RunDirectory
    from decentral.run.report import write_report

    file = write_report(RunDirectory.open(directory))
    if as_json:
        say_json({"report": str(file)})
    else:
        say(str(file))
