"""From a trained model to the stages that nodes load, and to what a client pins of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from decentral.core.finite import finite
from decentral.core.seeds import derive_seed
from decentral.data.datasets import LabelledImages, load_dataset
from decentral.errors import RecipeError, UserError
from decentral.models.gain import gains
from decentral.models.stages import Stage
from decentral.run.directory import peer_name
from decentral.run.experiment import Data
from decentral.run.finished import FinishedRun
from decentral.run.serving_recipe import ServingRecipe
from decentral.serving.stages.model import Network, digest_of, save_stages
from decentral.training.checkpoint import Checkpoints
from decentral.training.images import normalise
from decentral.training.parameters import put_parameters, read_parameters
from decentral.trust.anchors import Part

SAMPLES = 32
"""Inputs with which gains are estimated."""
PUSHED = 1e-4
"""How far apart the inputs are there, of their size: little, as honest answers are."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A trained network with what is to be known of its inputs. `data`: None where nobody says which they are."""

    name: str
    options: Mapping[str, Any]
    input: tuple[int, ...]
    classes: int
    parameters: Mapping[str, Tensor]
    words: str
    data: tuple[Mapping[str, Any], LabelledImages] | None


def cut(
    recipe: ServingRecipe, run: FinishedRun | None, folder: Path, say: Callable[[str], None] = lambda words: None
) -> tuple[Part, ...]:
    """Writes the stages of a recipe's model into `folder`; `run`: the training run that it comes from, if it does.

    The parts are in order, not calibrated. `say` is told whose model it is. Blocking. Raises RecipeError that names the
    key, and UserError.
    """
    network, stages, samples = staged(recipe, run, say)
    measured = estimated_gains(stages, samples, recipe.seed)
    save_stages(folder, network, stages)
    return tuple(
        Part(
            name,
            digest_of(stage),
            "client" if place < recipe.local else "peers",
            recipe.tolerance,
            measured[place],
            tuple(port.name for port in stage.inputs),
        )
        for place, (name, stage) in enumerate(zip(recipe.parts, stages, strict=True))
    )


def staged(
    recipe: ServingRecipe, run: FinishedRun | None, say: Callable[[str], None] = lambda words: None
) -> tuple[Network, list[Stage], Float[Tensor, "n ..."]]:
    """A recipe's model, cut, with samples of its inputs. Raises as `cut` does."""
    source = _from_file(recipe) if run is None else _from_run(recipe, run)
    say(f"the model is {source.words}")
    network = _network(recipe, source)
    model = network.build()
    try:
        put_parameters(model, source.parameters)
    except UserError as error:
        raise UserError(f"{source.words}: {error}") from error
    try:
        stages = network.split(model)
    except UserError as error:
        raise RecipeError(str(error), key="stages") from error
    return network, stages, samples_of(network, recipe.seed)


def estimated_gains(stages: list[Stage], inputs: Float[Tensor, "n ..."], seed: int) -> list[float]:
    """Of each stage until the model's outputs (`models.gain`). Raises UserError where an output is not finite."""
    given = {stages[0].inputs[0].name: inputs}
    tensors: Mapping[str, Tensor] = given
    for place, stage in enumerate(stages):
        with torch.no_grad():
            tensors = stage.run(tensors)
        if not all(map(finite, tensors.values())):
            raise UserError(f"the outputs of stage {place} are not finite")
    generator = torch.Generator().manual_seed(derive_seed(seed, "gain"))
    return gains(stages, given, [PUSHED] * len(stages), generator)


def _from_run(recipe: ServingRecipe, run: FinishedRun) -> Source:
    directory, peer = run.directory, run.choose(recipe.model.peer)
    trained = directory.recipe
    accuracy = run.accuracies[peer]
    words = f"{peer_name(peer)} of {directory.path}" + ("" if accuracy is None else f", accuracy {accuracy:.4f}")
    saved = Checkpoints(directory.checkpoints, peer_name(peer)).trained()
    if saved is None:
        raise RecipeError(f"{directory.path}: holds no checkpoint of {peer_name(peer)}", key="model.peer")
    data = _dataset(recipe.data or trained.data)
    images = data[1]
    return Source(
        trained.model.name,
        trained.model.options,
        images.image_shape,
        images.classes,
        saved.state,
        words,
        data,
    )


def _from_file(recipe: ServingRecipe) -> Source:
    model = recipe.model
    assert model.file is not None and model.name is not None
    data = None if recipe.data is None else _dataset(recipe.data)
    shape, classes = model.input, model.classes
    if data is not None:
        shape, classes = shape or data[1].image_shape, classes or data[1].classes
    assert shape is not None and classes is not None
    parameters = read_parameters(Path(model.file).expanduser())
    return Source(model.name, model.options, shape, classes, parameters, model.file, data)


def _dataset(data: Data) -> tuple[Mapping[str, Any], LabelledImages]:
    said: dict[str, Any] = {
        "name": data.name,
        "root": data.root,
        "verify": data.verify,
        "channels": data.channels,
        **data.options,
    }
    return said, load_dataset(**said, download=data.download)


def _network(recipe: ServingRecipe, source: Source) -> Network:
    known: dict[str, Any] = {}
    if source.data is not None:
        said, images = source.data
        names = images.class_names if images.classes == source.classes else ()
        known = {"data": said, "class_names": tuple(names), "white": images.white}
        known |= {key: tuple(float(number) for number in getattr(images, key)) for key in ("mean", "std")}
    return Network(
        source.name,
        dict(source.options),
        tuple(source.input),
        source.classes,
        recipe.stages,
        recipe.single,
        source.words,
        noise=recipe.noise,
        **known,
    )


def samples_of(network: Network, seed: int) -> Float[Tensor, "n ..."]:
    """Some of the data's training images, or noise where there is no data of that shape."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "samples"))
    images = network.dataset()
    if images is None or tuple(images.image_shape) != network.input:
        return torch.randn(SAMPLES, *network.input, generator=generator)
    places = torch.randperm(len(images.train_labels), generator=generator)[:SAMPLES].sort().values
    pixels = torch.from_numpy(images.train_images(np.asarray(places)))
    return normalise(pixels, images.mean, images.std)
