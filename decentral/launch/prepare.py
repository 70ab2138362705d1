"""From a serving recipe to a folder whose nodes can start: the model is trained first where it has to be, and cut.

What was done stays done: where an earlier attempt was interrupted, the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from decentral.errors import RecipeError, RunDirectoryError
from decentral.launch.engine import Options, execute
from decentral.run.directory import ABOUT, ServingDirectory
from decentral.run.finished import FinishedRun
from decentral.run.proving import Proving
from decentral.run.recipe import Recipe, load_recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.leakage import check_leakage
from decentral.trust.policy import FILE as POLICY
from decentral.wire.authority import Authority

Train = Callable[[Recipe, Options], object]
"""Runs a recipe to its end in this machine's processes."""


def train_quietly(recipe: Recipe, options: Options) -> None:
    execute(recipe, "local", options)


def is_prepared(path: Path) -> bool:
    """Whether the stages of a serving cluster are on disk: what is pinned of them is written after them."""
    return (path / FILE).is_file()


def prepare(
    recipe: ServingRecipe,
    path: Path,
    *,
    plugins: Sequence[Path] = (),
    train: Train = train_quietly,
    say: Callable[[str], None] = lambda words: None,
    bounded: bool = True,
) -> ServingDirectory:
    """Makes the folder, or goes on with it; its stages and its trust file are there afterwards. Blocking.

    `bounded`: whether what leaks has to be within the recipe's policy. Raises RecipeError that names the key alone
    where the recipe asks for what cannot be, and UserError.
    """
    if not (path / ABOUT).exists():
        opened = ServingDirectory.create(path, recipe, "local")
    elif ServingDirectory.open(path).in_use:
        raise RunDirectoryError(f"{path}: is up already; end it with: decentral down {path}")
    elif is_prepared(path):
        opened = _as_prepared(path, recipe)
    else:
        opened = ServingDirectory.resume(path, ServingDirectory.open(path).recipe)
    with opened as directory:
        if not is_prepared(path):
            from decentral.launch.stages import cut

            directory.change(recipe)
            parts = cut(recipe, _source(directory, plugins, train), directory.stages, say)
            recipe.default_policy().save(path / POLICY)
            Anchors(Authority.open(directory.authority).pem, (), 1, parts).save(path / FILE)
        if recipe.proofs is not None:
            prepare_proofs(recipe.proofs, path, say)
        if recipe.attestation.shown:
            from decentral.launch.attesting import pin_machines

            pin_machines(directory, say)
        if bounded:
            budget = recipe.budget()
            noise = "" if budget is None else str(budget)
            check_leakage(path, Anchors.load(path / FILE).parts, recipe.default_policy(), noise)
    return directory


def _as_prepared(path: Path, recipe: ServingRecipe) -> ServingDirectory:
    """A folder whose stages are there: machines are measured with recipe and policy, which stay as they are."""
    if ServingDirectory.open(path).recipe.attestation != recipe.attestation:
        raise RecipeError(f"{path} was made with another; serve in another folder", key="attestation")
    return ServingDirectory.resume(path, recipe)


def _source(directory: ServingDirectory, plugins: Sequence[Path], train: Train) -> FinishedRun | None:
    """The run from which the model comes; None: it comes from a file."""
    model = directory.recipe.model
    if model.file is not None:
        return None
    if model.run is not None:
        return FinishedRun.open(Path(model.run).expanduser())
    assert model.recipe is not None
    begun = (directory.training / ABOUT).exists()
    if not begun or not FinishedRun.is_over(directory.training):
        train(load_recipe(model.recipe), Options(directory.training, resume=begun, plugins=plugins))
    return FinishedRun.open(directory.training)


def prepare_proofs(proofs: Proving, path: Path, say: Callable[[str], None] = lambda words: None) -> None:
    """The circuits of a cluster, made and pinned; those that the store has are not made again. Blocking.

    Raises UserError that names the part which cannot become a circuit, Unproven.
    """
    from decentral.launch.proofs import limits_of, options_of, reference_of, set_up
    from decentral.zk.store import Store

    say("making the circuits that prove answers")
    asyncio.run(set_up(path, reference_of(proofs), Store(), options_of(proofs), limits=limits_of(proofs), say=say))
