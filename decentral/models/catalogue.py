"""The networks that recipes may name. Free of torch until one is built."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.registry import Registry, nearest

if TYPE_CHECKING:
    from torch import nn

_HERE = "decentral.models"
MODELS = Registry(
    "model",
    {
        "mlp": f"{_HERE}.mlp:mlp",
        "cnn": f"{_HERE}.cnn:SmallCNN",
        "strided-cnn": f"{_HERE}.cnn:StridedCNN",
        "gn-lenet": f"{_HERE}.cnn:GNLeNet",
        "resnet8": f"{_HERE}.resnet_cifar:resnet8",
        "resnet20": f"{_HERE}.resnet_cifar:resnet20",
        "resnet32": f"{_HERE}.resnet_cifar:resnet32",
        "vgg11-bn": f"{_HERE}.vgg:vgg11",
        "vgg16-bn": f"{_HERE}.vgg:vgg16",
        "unet": f"{_HERE}.denoisers:unet",
        "dit": f"{_HERE}.denoisers:dit",
    },
)
"""Constructors `(input_shape, classes, **options) -> nn.Module`; other names are torchvision's."""

DENOISERS = frozenset({"unet", "dit"})
"""Those that answer with images: what the learner `diffusion` trains."""

_TORCHVISION = "torchvision/"
_REGISTERED = re.compile(r'^@register_model\((?:name="(\w+)")?\)\n(?:@.*\n)*def (\w+)', re.MULTILINE)


@cache
def torchvision_names() -> frozenset[str]:
    """torchvision's classifiers, found in its text, since importing it would import torch; none if it is not there."""
    spec = importlib.util.find_spec("torchvision")
    folders = [Path(folder, "models") for folder in (spec.submodule_search_locations or ())] if spec else []
    texts = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.glob("*.py"))]
    return frozenset(given or function for text in texts for given, function in _REGISTERED.findall(text))


def is_torchvision(name: str) -> bool:
    """Whether `torchvision/NAME`, or NAME where no model of ours or of a plugin is called so, is one of torchvision's.

    Raises UserError that offers the nearest name, ours or theirs, for one that nobody has.
    """
    short = name.removeprefix(_TORCHVISION)
    if short == name and short in MODELS.names():
        return False
    theirs = torchvision_names()
    if short in theirs:
        return True
    if short != name:
        raise UserError(f"torchvision has no classifier {short!r}; {nearest(short, theirs)}")
    ours = MODELS.names()
    offer = nearest(short, [*ours, *theirs])
    if not offer.startswith("did you mean"):
        offer = f"{nearest(short, ours)}; and torchvision's classifiers, by their names"
    raise UserError(f"unknown model {short!r}; {offer}")


def build_model(name: str, input_shape: Sequence[int], classes: int, **options: object) -> nn.Module:
    """A new network for images of this shape (without the batch), initialised from torch's random state.

    Raises UserError for an unknown name, for options that it does not take and for images that it cannot take.
    """
    if is_torchvision(name):
        return _torchvision(name, tuple(input_shape), classes, options)
    return _constructed(name, lambda: MODELS.construct(name, tuple(input_shape), classes, **options))


def _torchvision(name: str, input_shape: tuple[int, ...], classes: int, options: dict[str, object]) -> nn.Module:
    from torchvision import models

    short = name.removeprefix(_TORCHVISION)
    if len(input_shape) != 3 or input_shape[0] != 3:
        offer = ": set data.channels: 3, which repeats the channel of grayscale images" if input_shape[0] == 1 else ""
        raise UserError(f"the model {name!r} takes images with 3 channels, not {list(input_shape)}{offer}")
    if "weights" in options:
        raise UserError(f"the model {name!r} starts from random weights: the option 'weights' would download some")
    if short in ("googlenet", "inception_v3"):
        # Their auxiliary classifiers would make the output a tuple in training.
        options = {"aux_logits": False, "init_weights": True, **options}
    return _constructed(name, lambda: models.get_model(short, num_classes=classes, **options))


def _constructed(name: str, construct: Callable[[], nn.Module]) -> nn.Module:
    try:
        return construct()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the model {name!r} cannot be built with these options: {error}") from error
