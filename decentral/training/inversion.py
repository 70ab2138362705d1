"""Attacks on the tensors that cross a cut, which measure what they give away: images made again, and labels guessed.

The attacker has inputs of its own with the tensors that the victim's network makes of them, and learns the way back;
what it finds out is counted on inputs of others. He, Zhang, Lee, "Model inversion attacks against collaborative
inference", 2019, section 4.2 (the black-box attack). A better attacker may find more: these figures are lower bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.leakage import peak_signal_to_noise, structural_similarity
from decentral.core.seeds import derive_seed
from decentral.training.optimiser import build_optimiser

Network = TypeVar("Network", bound=nn.Module)

Tensors = Mapping[str, Tensor]
"""What crosses a cut, by name; row i of each tensor is of input i."""

BATCH = 64
CHUNK = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
LARGEST_MAP = 32
"""Feature maps are brought to this side at most before an inverter looks at them."""


@dataclass(frozen=True, slots=True)
class Inversion:
    """Images that an attacker made of others' tensors, and how near they come, on average over images.

    `floor_psnr`, `floor_ssim`: of the mean of the attacker's own images, which needs no tensors at all.
    """

    images: Float[Tensor, "n c h w"]
    psnr: float
    ssim: float
    floor_psnr: float
    floor_ssim: float


class Inverter(nn.Module):
    """From the tensors of a cut to images in [0, 1].

    Feature maps go through convolutions at the images' resolution; tensors of any other form are one long vector to a
    network with one hidden layer.
    """

    def __init__(self, examples: Tensors, image_shape: tuple[int, int, int], hidden: int = 32) -> None:
        super().__init__()
        channels, *sides = image_shape
        self._image_shape = image_shape
        self.spatial = all(tensor.dim() == 4 for tensor in examples.values())
        joined = self._joined(examples)
        self.scale, inputs = Standardised(joined), joined.shape[1]
        if self.spatial:
            self.decode: nn.Module = nn.Sequential(
                nn.Conv2d(inputs, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Upsample(size=tuple(sides), mode="bilinear", align_corners=False),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, channels, 3, padding=1),
            )
        else:
            wide, pixels = 16 * hidden, math.prod(image_shape)
            self.decode = nn.Sequential(nn.Linear(inputs, wide), nn.ReLU(), nn.Linear(wide, pixels))

    def forward(self, tensors: Tensors) -> Float[Tensor, "n c h w"]:
        made: Tensor = self.decode(self.scale(self._joined(tensors)))
        return torch.sigmoid(made.reshape(len(made), *self._image_shape))

    def _joined(self, tensors: Tensors) -> Tensor:
        """All tensors as one: [n, channels, side, side] or [n, numbers]."""
        if not self.spatial:
            return torch.cat([tensor.float().flatten(1) for tensor in tensors.values()], 1)
        largest = max(tensor.shape[2] for tensor in tensors.values()), max(t.shape[3] for t in tensors.values())
        side = min(largest[0], LARGEST_MAP), min(largest[1], LARGEST_MAP)
        return torch.cat([functional.adaptive_avg_pool2d(tensor.float(), side) for tensor in tensors.values()], 1)


class Standardised(nn.Module):
    """Every channel, or number, with mean 0 and deviation 1 over the examples that it was made with."""

    def __init__(self, examples: Float[Tensor, "n d ..."]) -> None:
        super().__init__()
        over = [0, *range(2, examples.dim())]
        self.register_buffer("mean", examples.mean(over, keepdim=True))
        self.register_buffer("deviation", examples.std(over, keepdim=True).clamp(min=1e-6))

    def forward(self, values: Float[Tensor, "n d ..."]) -> Float[Tensor, "n d ..."]:
        return (values - self.get_buffer("mean")) / self.get_buffer("deviation")


def invert(
    own: Tensors,
    own_images: Float[Tensor, "n c h w"],
    others: Tensors,
    others_images: Float[Tensor, "m c h w"],
    *,
    seed: int,
    epochs: int = 30,
) -> Inversion:
    """Trains an inverter on the attacker's `own` tensors and images, in [0, 1], and tries it on those of `others`.

    The victims' images are for counting alone. Blocking. Raises ValueError for fewer than two own images.
    """
    if len(own_images) < 2:
        raise ValueError("an inverter is trained on two images or more")
    shape = tuple(own_images.shape[1:])
    inverter = _made(lambda: Inverter(own, (shape[0], shape[1], shape[2])), derive_seed(seed, "inverter"))

    def loss(rows: Int[Tensor, " b"]) -> Tensor:
        return functional.mse_loss(inverter(_rows(own, rows)), own_images[rows])

    _descend(inverter, loss, len(own_images), derive_seed(seed, "inverter", "order"), epochs, weight_decay=0.0)
    found = _applied(inverter, others)
    blank = own_images.mean(0, keepdim=True).expand_as(others_images)
    return Inversion(
        images=found,
        psnr=float(peak_signal_to_noise(others_images, found).mean()),
        ssim=float(structural_similarity(others_images, found).mean()),
        floor_psnr=float(peak_signal_to_noise(others_images, blank).mean()),
        floor_ssim=float(structural_similarity(others_images, blank).mean()),
    )


def label_accuracy(
    own: Tensors,
    own_labels: Int[Tensor, " n"],
    others: Tensors,
    others_labels: Int[Tensor, " m"],
    classes: int,
    *,
    seed: int,
    hidden: int = 128,
    epochs: int = 30,
) -> float:
    """How often a network with one hidden layer, trained on the attacker's `own` tensors, guesses others' labels.

    `hidden`: 0 is a linear probe. Blocking.
    """
    joined = _flat(own)

    def build() -> nn.Module:
        layers = [nn.Linear(joined.shape[1], classes)]
        if hidden:
            layers = [nn.Linear(joined.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes)]  # type: ignore[list-item]
        return nn.Sequential(Standardised(joined), *layers)

    probe = _made(build, derive_seed(seed, "probe"))

    def loss(rows: Int[Tensor, " b"]) -> Tensor:
        return functional.cross_entropy(probe(joined[rows]), own_labels[rows])

    _descend(probe, loss, len(joined), derive_seed(seed, "probe", "order"), epochs, weight_decay=WEIGHT_DECAY)
    answers = _applied(lambda tensors: probe(_flat(tensors)), others).argmax(1)
    return float((answers == others_labels).double().mean())


def _made(build: Callable[[], Network], seed: int) -> Network:
    """A network whose first parameters follow from the seed; torch's own random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _descend(
    network: nn.Module, loss: Callable[[Tensor], Tensor], samples: int, seed: int, epochs: int, *, weight_decay: float
) -> None:
    """So many epochs of AdamW in shuffled batches, whose order follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = build_optimiser(
        "adamw", dict(network.named_parameters()), learning_rate=LEARNING_RATE, momentum=0.0, weight_decay=weight_decay
    )
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(samples, generator=generator), BATCH):
            optimiser.backward(loss(rows))
            optimiser.step()


@torch.no_grad()
def _applied(network: Callable[[Tensors], Tensor], tensors: Tensors) -> Tensor:
    samples = len(next(iter(tensors.values())))
    parts = [_rows(tensors, torch.arange(start, min(start + CHUNK, samples))) for start in range(0, samples, CHUNK)]
    return torch.cat([network(part) for part in parts])


def _rows(tensors: Tensors, rows: Int[Tensor, " b"]) -> Tensors:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def _flat(tensors: Tensors) -> Float[Tensor, "n d"]:
    return torch.cat([tensor.float().flatten(1) for tensor in tensors.values()], 1)
