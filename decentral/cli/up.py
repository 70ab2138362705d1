"""`decentral up`: a cluster that runs on after the command has returned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, say, say_json
from decentral.cli.run import PortOption, RestartOption


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

    `decentral status`, `logs` and `down` look after it.
    """
    from decentral.launch.background import start
    from decentral.run.recipe import load_recipe

    load_plugins(plugins or ())
    resolved = load_recipe(recipe, overrides or ())
    launcher = start(resolved, directory, plugins=plugins or (), restarts=restart, port=port)
    if as_json:
        say_json({"dir": str(directory), "launcher": launcher.pid, "peers": resolved.peers})
    else:
        say(f"{resolved.peers} peers are up in {directory}; look at them with: decentral status {directory}")
