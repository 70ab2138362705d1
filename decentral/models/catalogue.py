"""The networks that recipes may name. Free of torch until one is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        "gn-lenet": f"{_HERE}.cnn:GNLeNet",
        "resnet20": f"{_HERE}.resnet_cifar:resnet20",
        "resnet32": f"{_HERE}.resnet_cifar:resnet32",
        "vgg11-bn": f"{_HERE}.vgg:vgg11",
        "vgg16-bn": f"{_HERE}.vgg:vgg16",
    },
)
"""Constructors `(input_shape, classes, **options) -> nn.Module`; `torchvision/<name>` stands for torchvision's own."""

_TORCHVISION = "torchvision/"


def check_model(name: str) -> None:
    """Raises UserError for a name that no model has. Whether torchvision knows a name shows when it is built."""
    if not name.startswith(_TORCHVISION):
        try:
            MODELS.check(name)
        except UserError as error:
            raise UserError(f"{error}; torchvision's classifiers are called {_TORCHVISION}NAME") from None


def build_model(name: str, input_shape: Sequence[int], classes: int, **options: object) -> nn.Module:
    """A new network for images of this shape (without the batch), initialised from torch's random state.

    Raises UserError for an unknown name, for options that it does not take and for images that it cannot take.
    """
    if name.startswith(_TORCHVISION):
        return _torchvision(name, tuple(input_shape), classes, options)
    return _constructed(name, lambda: MODELS.construct(name, tuple(input_shape), classes, **options))


def _torchvision(name: str, input_shape: tuple[int, ...], classes: int, options: dict[str, object]) -> nn.Module:
    from torchvision import models

    available = models.list_models(module=models)
    short = name.removeprefix(_TORCHVISION)
    if short not in available:
        raise UserError(f"torchvision has no classifier {short!r}; {nearest(short, available)}")
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise UserError(f"the model {name!r} takes images with 3 channels, not {list(input_shape)}")
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
