"""What each part of a network that is served would learn of a client's images: the attacks of `training.inversion`.

The attacker is a node that kept what clients sent it: it knows the network, and has training images of its own, which
no victim shares; the victims' are test images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.core.budget import Budget
from decentral.core.leakage import distance_correlation
from decentral.core.noise import noised
from decentral.core.seeds import derive_seed
from decentral.data.datasets import LabelledImages
from decentral.data.partition import subset
from decentral.models.stages import Stage
from decentral.training.digest import model_digest
from decentral.training.images import normalise
from decentral.training.inversion import invert, label_accuracy
from decentral.trust.leakage import Exposure, Measurement

OWN, OTHERS = 1000, 300
"""Images of an attacker, and of its victims, where there are so many."""

BATCH = 100

See = Callable[[str, Tensor, Tensor], None]
"""Is told a part, images and what was made of what that part is sent; in [0, 1]."""


def measure(
    stages: Sequence[Stage],
    data: LabelledImages,
    *,
    names: Sequence[str] = (),
    local: int = 0,
    budget: Budget | None = None,
    own: int = OWN,
    others: int = OTHERS,
    epochs: int = 30,
    seed: int = 0,
    only: Collection[str] | None = None,
    see: See = lambda name, images, made: None,
) -> Measurement:
    """Of every stage: what it is sent tells of the images. `names`: of the stages, else `stage-0`, `stage-1`, ...

    The client computes the first `local` stages itself and adds the `budget`'s noise to what it sends on. The stages
    take one tensor of images and stand in evaluation mode. `only`: the stages that are attacked, for studies whose
    result is not kept; None: all. `see` is shown the victims' images at each of them, and those that the attacker made.
    Blocking: a minute or so for small networks.
    """
    names = names or [f"stage-{index}" for index in range(len(stages))]
    mine = subset(data.train_labels, min(own, len(data.train_labels)), seed, "leakage")
    theirs = subset(data.test_labels, min(others, len(data.test_labels)), seed, "leakage")
    pixels = torch.from_numpy(data.train_images(mine)), torch.from_numpy(data.test_images()[theirs])
    labels = torch.from_numpy(data.train_labels[mine]), torch.from_numpy(data.test_labels[theirs])
    images = [(some / data.white).float() for some in pixels]
    noise = torch.Generator().manual_seed(derive_seed(seed, "leakage", "noise"))
    port = stages[0].inputs[0].name
    crossing = [{port: normalise(some, data.mean, data.std)} for some in pixels]
    exposures = []
    for index, (name, stage) in enumerate(zip(names, stages, strict=True)):
        if budget is not None and index == local:
            crossing = [noised(tensors, budget, noise) for tensors in crossing]
        if only is None or name in only:
            sent, victims = crossing
            made = invert(sent, images[0], victims, images[1], seed=seed, epochs=epochs)
            see(name, images[1], made.images)
            labelled = label_accuracy(sent, labels[0], victims, labels[1], data.classes, seed=seed, epochs=epochs)
            told, floors = correlation(images[1], victims), (made.floor_psnr, made.floor_ssim)
            exposures.append(Exposure(name, told, made.psnr, made.ssim, *floors, labelled))
        crossing = [passed(stage, tensors) for tensors in crossing]
    [logits] = crossing[1].values()
    return Measurement(
        exposures=tuple(exposures),
        digests={name: model_digest(each.description, each.state()) for name, each in zip(names, stages, strict=True)},
        noise="" if budget is None else str(budget),
        accuracy=float((logits.argmax(1) == labels[1]).double().mean()),
        own=len(mine),
        others=len(theirs),
        seed=seed,
    )


def correlation(images: Float[Tensor, "n c h w"], crossing: Mapping[str, Tensor]) -> float:
    """The largest distance correlation of the images with any tensor that crosses, and with all of them together."""
    views = list(crossing.values())
    if len(views) > 1:
        views.append(torch.cat([tensor.float().flatten(1) for tensor in views], 1))
    return max(distance_correlation(images, tensor.float()) for tensor in views)


@torch.no_grad()
def passed(stage: Stage, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A stage's outputs, computed in small batches."""
    samples = len(next(iter(tensors.values())))
    parts = [
        stage.run({name: tensor[start : start + BATCH] for name, tensor in tensors.items()})
        for start in range(0, samples, BATCH)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
