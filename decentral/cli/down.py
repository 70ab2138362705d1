"""`decentral down`: the end of a cluster that `up` started, or that runs in another terminal."""

from __future__ import annotations

from decentral.cli.output import JsonOption, RunArgument, say, say_json


def down(directory: RunArgument, as_json: JsonOption = False) -> None:
    """End a running cluster; what it has done so far is kept and can be resumed."""
    from decentral.algorithms.catalogue import SERVED
    from decentral.launch.background import stop
    from decentral.run.directory import RunDirectory, open_cluster

    run = open_cluster(directory)
    stop(run)
    if as_json:
        say_json({"dir": str(directory), "running": False})
    else:
        trains = isinstance(run, RunDirectory) and run.recipe.algorithm not in SERVED
        again = (
            f"run {run.recipe_file} --out {directory} --resume" if trains else f"up {run.recipe_file} --dir {directory}"
        )
        say(f"{directory} is down; go on with: decentral {again}")
