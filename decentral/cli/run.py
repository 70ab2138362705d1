"""`decentral run`: a recipe, to its end, in the world that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.observing import (
    LogFormatOption,
    MetricsOption,
    TensorBoardOption,
    TraceOption,
    both,
    curves,
    tell_nodes,
)
from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, say, say_json
from decentral.errors import UserError

OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="WORLD",
        help="local: a process for each peer. ray: an actor of a Ray cluster for each. sim: one process, virtual time.",
    ),
]
OutOption = Annotated[Path | None, typer.Option(help="The run directory. [default: runs/RECIPE-N]", show_default=False)]
RestartOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        show_default=False,
        help="Start a crashed peer again, up to this many times; 3 where it serves or lives on Ray, else 0.",
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Peers listen on this port and those after it. [default: free ones]"),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="With --on sim: train in so many processes, or with --address actors; 0: one a core. [default: in one]",
    ),
]

AddressOption = Annotated[
    str | None,
    typer.Option(
        help="With --on ray, or sim: auto, or HOST:PORT of the head. [default: $RAY_ADDRESS, or this machine alone]",
        show_default=False,
    ),
]
GpusOption = Annotated[
    float | None, typer.Option("--gpus-per-peer", help="With --on ray and device=cuda: 1, or a share of one.")
]
RuntimeEnvOption = Annotated[
    Path | None, typer.Option("--runtime-env", help="With --on ray: a YAML file with the runtime environment.")
]


def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    on: OnOption = "local",
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")] = False,
    plugins: PluginOption = None,
    restart: RestartOption = None,
    port: PortOption = None,
    address: AddressOption = None,
    gpus: GpusOption = None,
    runtime_env: RuntimeEnvOption = None,
    workers: WorkersOption = None,
    metrics: MetricsOption = None,
    trace: TraceOption = None,
    log_format: LogFormatOption = None,
    tensorboard: TensorBoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train by a recipe: every peer a process of its own, here or on a Ray cluster, or all of them simulated."""
    from decentral.cli.progress import Progress, result_lines
    from decentral.launch.engine import Options, check_world, execute
    from decentral.launch.ray.options import RayOptions
    from decentral.run.course import course
    from decentral.run.journal import read
    from decentral.run.recipe import load_recipe

    world = check_world(on)
    if world != "local" and (trace is not None or log_format is not None):
        raise UserError(f"--trace and --log-format are for processes of this machine, not for --on {world}")
    tell_nodes(trace, log_format)
    load_plugins(plugins)
    resolved = load_recipe(recipe, overrides or ())
    with curves(tensorboard) as scalars, Progress(resolved, hidden=as_json) as progress:
        options = Options(
            out,
            resume,
            plugins or (),
            restart,
            port,
            workers=workers,
            ray=RayOptions(address, gpus, runtime_env),
            metrics=metrics,
            observe=both(progress, scalars),
        )
        directory, summary = execute(resolved, world, options)
        if scalars is not None:
            scalars.mean(course(resolved, read(directory.events_file)))
    if as_json:
        say_json(summary)
        return
    for line in result_lines(summary):
        say(line)
    say(f"written    {directory.path}  (open {directory.report_file} in a browser)")
