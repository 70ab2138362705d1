"""The autoencoder that a recipe names: found, looked at, and bound to the recipe's hash by its digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.models.autoencoder_folder import autoencoder_digest
from decentral.training.catalogue import DENOISING

if TYPE_CHECKING:
    from decentral.run.recipe import Recipe
    from decentral.run.source import Document


def with_digest(recipe: Recipe, document: Document) -> Recipe:
    """The recipe that says which autoencoder it means, beside where it lies; one without any is left as it is.

    Raises RecipeError, placed by `document`, for a folder that holds none, or another one than the recipe says.
    """
    if (said := recipe.vae) is None:
        return recipe
    if recipe.learner.name not in DENOISING:
        names = " and ".join(sorted(DENOISING))
        raise document.error(f"latents are for the learners {names}, not for {recipe.learner.name!r}", ("vae",))
    if recipe.data.augment:
        raise document.error("moves pixels, and latents are made once: it does not go with vae", ("data", "augment"))
    try:
        digest = autoencoder_digest(Path(said.folder).expanduser())
    except UserError as error:
        raise document.error(str(error), ("vae", "folder")) from error
    if said.digest not in (None, digest):
        problem = f"{said.folder} holds another autoencoder, of digest {digest}"
        raise document.error(problem, ("vae", "digest"))
    return recipe.model_copy(update={"vae": said.model_copy(update={"digest": digest})})
