"""`decentral up`: a cluster that runs on after the command has returned."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, say, say_json
from decentral.cli.run import PortOption, RestartOption

STARTING = 120.0
"""Seconds in which the peers must have started."""


def up(
    recipe: RecipeArgument,
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="The run directory to make.")],
    overrides: SetOption = None,
    plugins: PluginOption = None,
    restart: RestartOption = 0,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a cluster in the background; `status`, `logs` and `down` look after it."""
    from decentral.errors import DecentralError, UserError
    from decentral.run.directory import check_empty
    from decentral.run.journal import Tail
    from decentral.run.recipe import load_recipe
    from decentral.run.standing import Standings

    load_plugins(plugins)
    resolved = load_recipe(recipe, overrides or ())
    check_empty(directory)
    command = [sys.executable, "-P", "-m", "decentral", "run", recipe, "--out", str(directory), "--json"]
    for name, values in (("--set", overrides or []), ("--plugin", plugins or []), ("--restart", [restart])):
        command += [part for value in values for part in (name, str(value))]
    command += ["--port", str(port)] if port is not None else []
    log = directory.parent / f".{directory.name}.launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    standings, tail = Standings(resolved.peers), Tail(directory)
    ends = time.monotonic() + STARTING
    while standings.started < resolved.peers:
        standings.take_all(tail.poll())
        if process.poll() is not None and standings.started < resolved.peers:
            problem = log.read_text().strip().removeprefix("error: ")
            raise UserError(problem) if process.returncode == 2 else DecentralError(problem)
        if time.monotonic() > ends:
            process.terminate()
            raise DecentralError(f"the peers did not start within {STARTING:.0f} s; see {log}")
        time.sleep(0.05)
    if as_json:
        say_json({"dir": str(directory), "launcher": process.pid, "peers": resolved.peers})
    else:
        say(f"{resolved.peers} peers are up in {directory}; look at them with: decentral status {directory}")
