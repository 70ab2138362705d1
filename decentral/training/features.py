"""What images look like to a network, or along their principal components: rows that can be clustered.

A network's features of an image are what goes into its last linear layer; of DINOv2, what comes out. Everything follows
from the data, the options and the seed, so that each peer finds the same by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.seeds import derive_seed
from decentral.data.clusters import Features, PrincipalComponents
from decentral.data.datasets import Indices, LabelledImages, Pixels
from decentral.errors import UserError
from decentral.models.catalogue import build_model, is_torchvision
from decentral.models.dinov2 import load_dinov2
from decentral.models.graphs import evaluating
from decentral.training.classifier import ClassifierLearner
from decentral.training.images import normalise
from decentral.training.loop import choose_device

BATCH = 128
EPOCHS = 5
"""Of an encoder that is trained on the images for no other purpose."""
DINOV2 = "dinov2"
IMAGENET_MEAN, IMAGENET_STD, IMAGENET_SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224


class Looking:
    """A `data.clusters.Look` at the training images `chosen`, and at the test images in the same way."""

    def __init__(self, data: LabelledImages, chosen: Indices, seed: int, device: str = "cpu") -> None:
        self._data, self._chosen, self._seed, self._device = data, chosen, seed, device
        self.train: Features | None = None
        """Of the images shared out; None: nobody looked."""
        self._of_test: Callable[[], Features] | None = None

    def __call__(self, options: Mapping[str, object]) -> Features:
        """`features`, `weights`, `components` as `data.clusters.clusters` describes them. Raises UserError."""
        name, weights, components = str(options["features"]), options["weights"], options["components"]
        if name.endswith(".safetensors"):
            self.train, self._of_test = self._from_file(Path(name))
            return self.train
        project = self._projection(name, weights, components)
        self.train = project(self._data.train_images(self._chosen))
        self._of_test = lambda: project(self._data.test_images())
        return self.train

    def test(self) -> Features | None:
        """Of the test images; None: nobody looked."""
        return None if self._of_test is None else self._of_test()

    def _projection(self, name: str, weights: object, components: object) -> Callable[[Pixels], Features]:
        if name == "pixels":
            assert isinstance(components, int)
            pixels = self._data.train_images(self._chosen)
            return PrincipalComponents(pixels, components, self._seed, self._data.white)
        if name == "encoder":
            return self._trained_here()
        if name != DINOV2 and not is_torchvision(name):
            known = f"pixels, encoder, {DINOV2} or one of torchvision's names"
            raise UserError(f"data.partition.features: {name!r} is not {known}")
        if not isinstance(weights, str):
            where = "the folder of a checkpoint" if name == DINOV2 else "a safetensors file"
            raise UserError(f"data.partition.weights: {name!r} needs its weights in {where}")
        return self._dinov2(Path(weights)) if name == DINOV2 else self._pretrained(name, Path(weights))

    def _trained_here(self) -> Callable[[Pixels], Features]:
        data, seed = self._data, derive_seed(self._seed, "encoder")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model("cnn", data.image_shape, data.classes)
            learner = ClassifierLearner(
                model,
                data,
                self._chosen,
                seed=seed,
                epochs=EPOCHS,
                batch_size=64,
                optimizer="adam",
                learning_rate=1e-3,
                device=self._device,
            )
            learner.train(1)
        return lambda pixels: features(model, lambda part: normalise(part, data.mean, data.std), pixels)

    def _pretrained(self, name: str, weights: Path) -> Callable[[Pixels], Features]:
        from torchvision import models

        model = models.get_model(name.removeprefix("torchvision/"), weights=None).to(choose_device(self._device))
        try:
            model.load_state_dict(load_file(weights.expanduser()))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"data.partition.weights: {weights} are not the weights of {name!r}: {error}") from error
        return lambda pixels: features(model, self._as_imagenet(IMAGENET_SIDE), pixels)

    def _dinov2(self, folder: Path) -> Callable[[Pixels], Features]:
        try:
            model = load_dinov2(folder.expanduser()).to(choose_device(self._device))
        except UserError as error:
            raise UserError(f"data.partition.weights: {error}") from error
        patch = model.shape.patch
        return lambda pixels: answers(model, self._as_imagenet(IMAGENET_SIDE // patch * patch), pixels)

    def _as_imagenet(self, side: int) -> Callable[[Tensor], Tensor]:
        """Pixels as networks that were trained on ImageNet see them: in colour, `side` wide, mean 0, variance 1."""
        mean, std = ([value * self._data.white for value in row] for row in (IMAGENET_MEAN, IMAGENET_STD))

        def prepare(part: Tensor) -> Tensor:
            colour = part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part
            return functional.interpolate(normalise(colour, mean, std), side, mode="bilinear", antialias=True)

        return prepare

    def _from_file(self, path: Path) -> tuple[Features, Callable[[], Features] | None]:
        """`features`: a row for each training image; `test`, if it is there: one for each test image."""
        try:
            found = {name: tensor.double().numpy() for name, tensor in load_file(path.expanduser()).items()}
            rows = found["features"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"data.partition.features: {path} holds no features ({error})") from error
        images = len(self._data.train_labels)
        if rows.ndim != 2 or len(rows) != images or not np.isfinite(rows).all():
            raise UserError(f"data.partition.features: {path} must have a row of numbers for each of {images} images")
        if "test" not in found:
            return rows[self._chosen], None
        if found["test"].shape != (len(self._data.test_labels), rows.shape[1]):
            raise UserError(f"data.partition.features: in {path}, 'test' must have a row for each test image")
        return rows[self._chosen], lambda: found["test"]


@torch.no_grad()
def features(model: nn.Module, prepare: Callable[[Tensor], Tensor], pixels: Pixels) -> Features:
    """What goes into the last linear layer, for each image. Raises UserError for a network without one."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f"a {type(model).__name__} has no linear layer whose input could be its features")
    caught: list[Float[Tensor, "b d"]] = []
    handle = layers[-1].register_forward_pre_hook(lambda _, given: caught.append(given[0].flatten(1).double().cpu()))
    try:
        answers(model, prepare, pixels)
    finally:
        handle.remove()
    return torch.cat(caught).numpy()


@torch.no_grad()
def answers(model: nn.Module, prepare: Callable[[Tensor], Tensor], pixels: Pixels) -> Features:
    """What a network says of each image."""
    device, found = next(model.parameters()).device, []
    with evaluating(model):
        for start in range(0, len(pixels), BATCH):
            part = torch.from_numpy(pixels[start : start + BATCH].copy())  # which may be read-only
            answer = model(prepare(part.to(device)))
            found.append(answer.flatten(1).double().cpu())
    return torch.cat(found).numpy()
