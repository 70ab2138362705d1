"""`decentral up`: a cluster that runs on after the command has returned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, say, say_json
from decentral.cli.run import PortOption, RestartOption
from decentral.errors import RunDirectoryError

if TYPE_CHECKING:
    from decentral.launch.engine import Options
    from decentral.run.directory import RunDirectory
    from decentral.run.recipe import Recipe


def up(
    recipe: RecipeArgument,
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="The run directory to make.")],
    overrides: SetOption = None,
    plugins: PluginOption = None,
    restart: RestartOption = 0,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a cluster in the background.

    Peers of a recipe that trains start to train. A recipe of models that are served by their peers is trained first,
    unless DIR holds its finished run. `decentral status`, `logs` and `down` look after the cluster.
    """
    from decentral.algorithms.catalogue import SERVED
    from decentral.launch.background import start, start_serving
    from decentral.launch.engine import Options
    from decentral.run.recipe import load_recipe

    load_plugins(plugins or ())
    resolved = load_recipe(recipe, overrides or ())
    if resolved.algorithm in SERVED:
        run = trained(resolved, Options(directory, plugins=plugins or (), restarts=restart, port=port), hidden=as_json)
        launcher = start_serving(run, plugins=plugins or (), port=port)
        said = f"{directory} answers; ask it with: decentral generate {directory}"
    else:
        launcher = start(resolved, directory, plugins=plugins or (), restarts=restart, port=port)
        said = f"{resolved.peers} peers are up in {directory}; look at them with: decentral status {directory}"
    if as_json:
        say_json({"dir": str(directory), "launcher": launcher.pid, "peers": resolved.peers})
    else:
        say(said)


def trained(recipe: Recipe, options: Options, *, hidden: bool) -> RunDirectory:
    """The finished run of a recipe in its directory, which is made there if the directory is empty or new.

    Raises RunDirectoryError if it holds another run, or one that did not end.
    """
    from decentral.cli.progress import Progress
    from decentral.launch.engine import execute
    from decentral.run.directory import ABOUT, RunDirectory

    assert options.out is not None
    if not (options.out / ABOUT).exists():
        with Progress(recipe, hidden=hidden) as progress:
            execute(recipe, "local", options.watched(progress))
    run = RunDirectory.open(options.out)
    if differing := run.recipe.differences(recipe):
        raise RunDirectoryError(f"{run.path}: is a run of another recipe; these keys differ: {', '.join(differing)}")
    if run.in_use:
        raise RunDirectoryError(f"{run.path}: is up already; end it with: decentral down {run.path}")
    return run
