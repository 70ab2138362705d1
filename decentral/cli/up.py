"""`decentral up`: a cluster that runs on after the command has returned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.observing import LogFormatOption, MetricsOption, TraceOption, tell_nodes
from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, note, say, say_json
from decentral.cli.run import AddressOption, GpusOption, PortOption, RestartOption, RuntimeEnvOption
from decentral.errors import RunDirectoryError, UserError

if TYPE_CHECKING:
    from decentral.launch.engine import Options
    from decentral.launch.prepare import Train
    from decentral.run.directory import AnyDirectory, RunDirectory
    from decentral.run.recipe import Recipe
    from decentral.run.serving_recipe import ServingRecipe
    from decentral.run.source import Document

OnOption = Annotated[
    str, typer.Option("--on", metavar="WORLD", help="local: processes of this machine. ray: actors of a Ray cluster.")
]


def up(
    recipe: RecipeArgument,
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="The run directory to make.")],
    overrides: SetOption = None,
    on: OnOption = "local",
    plugins: PluginOption = None,
    restart: RestartOption = None,
    port: PortOption = None,
    metrics: MetricsOption = None,
    trace: TraceOption = None,
    log_format: LogFormatOption = None,
    address: AddressOption = None,
    gpus: GpusOption = None,
    runtime_env: RuntimeEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a cluster in the background.

    Peers of a recipe that trains start to train. A recipe of models that are served by their peers is trained first,
    unless DIR holds its finished run; so is the model of a recipe that serves one in stages, unless it comes from
    elsewhere. `decentral status`, `logs` and `down` look after the cluster.
    """
    from decentral.algorithms.catalogue import SERVED
    from decentral.launch.background import start
    from decentral.launch.engine import Options, check_options, check_world
    from decentral.launch.prepare import is_prepared
    from decentral.launch.ray.options import RayOptions
    from decentral.run.recipe import Recipe, read_recipe
    from decentral.run.serving_recipe import any_recipe

    load_plugins(plugins or ())
    tell_nodes(trace, log_format)
    document = read_recipe(recipe)
    resolved = any_recipe(document, overrides or (), prepared=is_prepared(directory))
    world, ray = check_world(on), RayOptions(address, gpus, runtime_env)
    options = Options(directory, plugins=plugins or (), restarts=restart, port=port, metrics=metrics, ray=ray)
    trains = isinstance(resolved, Recipe) and resolved.algorithm not in SERVED
    if world == "sim":
        raise UserError("--on sim: the simulator runs to its end; use decentral run")
    if world == "ray" and not trains:
        raise UserError("up --on ray is for recipes that train; one that serves is for processes, or decentral render")
    if isinstance(resolved, Recipe):
        check_options(resolved, world, options)
    elif ray.said:
        raise UserError("--address, --gpus-per-peer and --runtime-env are for --on ray")
    if not isinstance(resolved, Recipe):
        serve(staged(resolved, document, options, hidden=as_json), options, as_json)
    elif resolved.algorithm in SERVED:
        serve(trained(resolved, options, hidden=as_json), options, as_json)
    else:
        launcher = start(
            resolved,
            directory,
            plugins=options.plugins,
            restarts=options.restarts,
            port=port,
            metrics=metrics,
            ray=ray if world == "ray" else None,
        )
        if as_json:
            say_json({"dir": str(directory), "launcher": launcher.pid, "peers": resolved.peers})
        else:
            say(f"{resolved.peers} peers are up in {directory}; look at them with: decentral status {directory}")


def serve(cluster: AnyDirectory, options: Options, as_json: bool) -> None:
    """Starts the nodes and says so once all of them answer."""
    from decentral.launch.background import start_serving
    from decentral.run.directory import RunDirectory

    launcher = start_serving(
        cluster, plugins=options.plugins, restarts=options.restarts, port=options.port, metrics=options.metrics
    )
    if isinstance(cluster, RunDirectory):
        count, ask = {"peers": cluster.recipe.peers}, f"generate {cluster.path}"
    else:
        count, ask = (
            {"nodes": len(cluster.recipe.nodes)},
            " ".join([f"predict {cluster.path} INPUT", *(f"--plugin {file}" for file in options.plugins)]),
        )
    if as_json:
        say_json({"dir": str(cluster.path), "launcher": launcher.pid, **count})
    else:
        say(f"{cluster.path} answers; ask it with: decentral {ask}")


def staged(recipe: ServingRecipe, document: Document, options: Options, *, hidden: bool) -> AnyDirectory:
    """The directory of a model in stages, which is made there, trained and cut if it is not there yet."""
    from decentral.launch.prepare import prepare

    assert options.out is not None
    if (told := recipe.liars_words) is not None:
        note(told)
    with document.placing():
        return prepare(recipe, options.out, plugins=options.plugins, train=training(hidden), say=note)


def training(hidden: bool) -> Train:
    """Runs a recipe, and shows how far it is."""
    from decentral.cli.progress import Progress
    from decentral.launch.engine import execute

    def train(recipe: Recipe, options: Options) -> None:
        note(f"training by {recipe.name}")
        with Progress(recipe, hidden=hidden) as progress:
            execute(recipe, "local", options.watched(progress))

    return train


def trained(recipe: Recipe, options: Options, *, hidden: bool) -> RunDirectory:
    """The finished run of a recipe in its directory, which is made there if the directory is empty or new.

    Raises RunDirectoryError if it holds another run, or one that did not end.
    """
    from decentral.run.directory import ABOUT, RunDirectory

    assert options.out is not None
    if not (options.out / ABOUT).exists():
        training(hidden)(recipe, options)
    run = RunDirectory.open(options.out)
    if differing := run.recipe.differences(recipe):
        raise RunDirectoryError(f"{run.path}: is a run of another recipe; these keys differ: {', '.join(differing)}")
    if run.in_use:
        raise RunDirectoryError(f"{run.path}: is up already; end it with: decentral down {run.path}")
    return run
