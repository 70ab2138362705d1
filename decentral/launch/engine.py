"""One recipe, any world: opens the run directory, runs the peers there, writes down what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from decentral.errors import RunDirectoryError, UserError
from decentral.launch.local import LocalRun
from decentral.launch.plan import Plan, make_plan
from decentral.registry import nearest
from decentral.run.directory import RunDirectory
from decentral.run.journal import Observer, rewind
from decentral.run.recipe import Recipe
from decentral.run.report import write_report
from decentral.run.summary import write_summary
from decentral.training.checkpoint import Checkpoints

World = Literal["local", "sim"]
WORLDS: tuple[World, ...] = ("local", "sim")


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, not what: none of it changes the result."""

    out: Path | None = None
    resume: bool = False
    plugins: Sequence[Path] = ()
    restarts: int = 0
    port: int | None = None
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
    with open_directory(recipe, world, options) as directory:
        resumed = common_round(directory, plan) if options.resume else None
        try:
            if world == "sim":
                from decentral.launch.simulated import SimulatedRun

                SimulatedRun(recipe, directory, resumed=resumed, observe=options.observe).run()
            else:
                plugins = tuple(str(plugin.resolve()) for plugin in options.plugins)
                run = LocalRun(
                    recipe,
                    directory,
                    plugins=plugins,
                    resumed=resumed,
                    restarts=options.restarts,
                    port=options.port,
                    observe=options.observe,
                )
                asyncio.run(run.run())
        except (KeyboardInterrupt, asyncio.CancelledError):  # SIGTERM, which `down` sends, is like Ctrl-C
            stopped = KeyboardInterrupt()
            stopped.add_note(f"go on with: decentral run {directory.recipe_file} --out {directory.path} --resume")
            raise stopped from None
        finally:
            simulated = world == "sim"  # whose events know virtual time alone
            summary = write_summary(directory, wall=time.monotonic() - began if simulated else None)
            write_report(directory)
        return directory, summary


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
    """The newest round that every peer has a sound checkpoint of; journals are cut back to it. 0: the beginning."""
    shelves = [Checkpoints(directory.checkpoints, peer.name) for peer in plan.peers]
    shared = sorted(set.intersection(*(set(shelf.rounds()) for shelf in shelves)), reverse=True)
    newest = next((round for round in shared if all(shelf.sound(round) for shelf in shelves)), 0)
    for peer in plan.peers:
        journal = directory.journal_file(peer.name)
        if journal.exists():
            rewind(journal, newest)
    return newest
