"""One recipe, any world: opens the run directory, runs the peers there, writes down what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from decentral.algorithms.catalogue import APART
from decentral.errors import RunDirectoryError, UserError
from decentral.launch.background import RESTARTS, note_launcher
from decentral.launch.local import LocalRun
from decentral.launch.observing.endpoint import At, exposed
from decentral.launch.plan import Plan, make_plan
from decentral.launch.ray.options import RayOptions
from decentral.launch.sealing import closed_vault
from decentral.registry import nearest
from decentral.run.directory import RunDirectory
from decentral.run.journal import Observer, read, rewind
from decentral.run.recipe import Recipe
from decentral.run.report import write_report
from decentral.run.summary import write_summary
from decentral.training.checkpoint import Checkpoints

World = Literal["local", "ray", "sim"]
WORLDS: tuple[World, ...] = ("local", "ray", "sim")


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, not what: none of it changes the result."""

    out: Path | None = None
    resume: bool = False
    plugins: Sequence[Path] = ()
    restarts: int | None = None
    port: int | None = None
    workers: int | None = None
    ray: RayOptions = field(default_factory=RayOptions)
    metrics: str | None = None
    observe: Observer = field(default=lambda event: None)

    def watched(self, observe: Observer) -> Self:
        return replace(self, observe=observe)


def check_world(name: str) -> World:
    """Raises UserError."""
    for world in WORLDS:
        if name == world:
            return world
    raise UserError(f"--on {name}: {nearest(name, WORLDS)}")


def execute(recipe: Recipe, world: World, options: Options) -> tuple[RunDirectory, dict[str, Any]]:
    """Runs a recipe to its end; returns its directory and the content of its summary.json. Blocking.

    Whatever ends the run, what happened until then is merged and reported. Raises UserError and DecentralError.
    """
    plan, began = make_plan(recipe), time.monotonic()
    check_options(recipe, world, options)
    with open_directory(recipe, world, options) as directory:
        note_launcher(directory)
        resumed = common_round(directory, plan) if options.resume else None
        try:
            with exposed(directory, options.metrics):
                _run(recipe, world, directory, resumed, options)
        except (KeyboardInterrupt, asyncio.CancelledError):  # SIGTERM, which `down` sends, is like Ctrl-C
            stopped = KeyboardInterrupt()
            stopped.add_note(f"go on with: decentral run {directory.recipe_file} --out {directory.path} --resume")
            raise stopped from None
        finally:
            simulated = world == "sim"  # whose events know virtual time alone
            summary = write_summary(directory, wall=time.monotonic() - began if simulated else None)
            write_report(directory)
        return directory, summary


def check_options(recipe: Recipe, world: World, options: Options) -> None:
    """Raises UserError for options that another world has, and for recipes that this one cannot run."""
    if options.metrics is not None:
        At.parse(options.metrics)
    if world == "sim" and (options.restarts or options.port is not None):
        raise UserError("--restart and --port are for processes: they mean nothing with --on sim")
    if world != "sim" and options.workers is not None:
        raise UserError("--workers is for the simulator: without --on sim every peer is a process of its own")
    if world == "sim" and recipe.attestation.shown:
        raise UserError("attestation: evidence is of the machine that a process runs on, and the simulator has none")
    if options.ray.said and world != "ray" and (world != "sim" or (options.workers or 0) < 2):
        ours = "--address, --gpus-per-peer and --runtime-env"
        raise UserError(f"{ours} are for --on ray, or for --on sim with --workers of 2 or more")
    if world == "ray" and options.port is not None:
        raise UserError("--port is for peers of this machine: with --on ray each takes a port that is free where it is")
    if world == "ray" or options.ray.said:
        options.ray.check(recipe)


def _run(recipe: Recipe, world: World, directory: RunDirectory, resumed: int | None, options: Options) -> None:
    """To the end. `resumed`: the round to go on from."""
    plugins = tuple(str(plugin.resolve()) for plugin in options.plugins)
    if world == "sim":
        from decentral.launch.pool.pool import Pool
        from decentral.launch.simulated import SimulatedRun

        start = None
        if options.ray.said:
            from decentral.launch.ray.hosts import actors

            start = partial(actors, recipe, options.ray)
        pool = Pool(recipe, 1 if options.workers is None else options.workers, options.plugins, start)
        SimulatedRun(recipe, directory, resumed=resumed, observe=options.observe, pool=pool).run()
    elif world == "ray":
        from decentral.launch.ray.engine import run_on_ray

        run_on_ray(
            recipe,
            directory,
            options.ray,
            plugins=plugins,
            resumed=resumed,
            restarts=RESTARTS if options.restarts is None else options.restarts,
            observe=options.observe,
        )
    else:
        run = LocalRun(
            recipe,
            directory,
            plugins=plugins,
            resumed=resumed,
            restarts=options.restarts or 0,
            port=options.port,
            metrics=None if options.metrics is None else At.parse(options.metrics),
            observe=options.observe,
        )
        asyncio.run(run.run())


def open_directory(recipe: Recipe, world: World, options: Options) -> RunDirectory:
    """A new run directory, or with `resume` the one of a run that was interrupted."""
    if not options.resume:
        return RunDirectory.create(options.out, recipe, world)
    if options.out is None:
        raise RunDirectoryError("--resume needs --out DIR: the run to go on with")
    directory = RunDirectory.resume(options.out, recipe)
    if directory.world != world:
        directory.close()
        raise RunDirectoryError(f"{options.out}: this run was made with --on {directory.world}; resume it there")
    return directory


def common_round(directory: RunDirectory, plan: Plan) -> int:
    """The round to go on from; journals are cut back to it. 0: from the beginning.

    It is the newest that all peers have on disk which had come about as far as the furthest. A peer that was gone long
    before goes on from the same round with what it has. Where peers are drawn, or alone, each goes on from its own
    newest round, and this is the newest of all.
    """
    whole = {peer.name: _whole_rounds(directory, peer.name) for peer in plan.peers}
    front = max((max(rounds, default=0) for rounds in whole.values()), default=0)
    if directory.recipe.algorithm in APART:
        return _rewound(directory, whole, front)
    behind = plan.kept_checkpoints * directory.recipe.checkpoint.every
    together = [rounds for rounds in whole.values() if max(rounds, default=0) > front - behind]
    shared = max(set.intersection(*together), default=0)
    if front and not shared:
        raise RunDirectoryError(
            f"{directory.path}: the peers have no undamaged round in common, so this run cannot go on; "
            "start another with another --out"
        )
    return _rewound(directory, whole, shared)


def _rewound(directory: RunDirectory, whole: Mapping[str, set[int]], shared: int) -> int:
    """Cuts every journal back to its last whole round up to `shared`."""
    for name, rounds in whole.items():
        journal = directory.journal_file(name)
        if journal.exists():
            rewind(journal, max((round for round in rounds if round <= shared), default=0))
    return shared


def _whole_rounds(directory: RunDirectory, name: str) -> set[int]:
    """Rounds of a peer that its journal ends and of which there is an undamaged checkpoint."""
    journal = directory.journal_file(name)
    shelf = Checkpoints(directory.checkpoints, name, vault=closed_vault(directory.recipe.attestation))
    events = read(journal) if journal.exists() else []
    ended = {event["round"] for event in events if event["event"] == "round"}
    return {round for round in shelf.rounds() if round in ended and shelf.sound(round)}
