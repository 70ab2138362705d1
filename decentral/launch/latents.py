"""What a peer's learner sees of the data: the images, or where its recipe has an autoencoder their latents."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from decentral.data.datasets import LabelledImages
from decentral.errors import UserError
from decentral.models.autoencoders import load_autoencoder
from decentral.run.recipe import Recipe
from decentral.training.latents import EncodedImages

_newest: dict[str, nn.Module] = {}
"""The one that was loaded last, by its folder and digest: peers that share a process share it."""


def seen(recipe: Recipe, images: LabelledImages) -> LabelledImages:
    """Blocking. Raises UserError for an autoencoder that is not the recipe's, or cannot take such images."""
    if (said := recipe.vae) is None:
        return images
    if said.digest is None:
        raise UserError("vae.digest: is not known; a recipe that is loaded by its name or file finds it out")
    key = f"{said.digest} {said.folder}"
    try:
        if key not in _newest:
            loaded = load_autoencoder(Path(said.folder).expanduser(), said.digest)
            _newest.clear()
            _newest[key] = loaded
        return EncodedImages(images, _newest[key], recipe.device)
    except UserError as error:
        raise UserError(f"vae.folder: {error}") from error
