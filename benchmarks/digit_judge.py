"""How far sampled digits are from real ones: by the features of a classifier trained on the real ones.

It is no Inception: distances are comparable among the rows of one table and with its floor, real test images against
real training images, and with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.fidelity import frechet_distance, gaussian_fit
from decentral.data.datasets import load_dataset

FEATURES, EPOCHS, BATCH = 32, 60, 64


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (n, 64) in [0, 1] and labels, test images and labels."""
    data = load_dataset("digits")
    train = data.train_images(np.arange(len(data.train_labels)))
    images = [torch.from_numpy(pixels).flatten(1).float() / data.white for pixels in (train, data.test_images())]
    labels = [torch.from_numpy(numbers) for numbers in (data.train_labels, data.test_labels)]
    return images[0], labels[0], images[1], labels[1]


@cache
def classifier() -> nn.Sequential:
    """Its last but one layer gives the features."""
    images, labels, _, _ = digits()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 10)
        )
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(EPOCHS):
            for batch in torch.split(torch.randperm(len(images)), BATCH):
                optimiser.zero_grad()
                torch.autograd.backward(functional.cross_entropy(model(images[batch]), labels[batch]))
                optimiser.step()
    return model.eval()


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """Of images (n, 64) in [0, 1]; float64."""
    found: Tensor = classifier()[:-1](images).double()
    return found


def distance(images: Tensor) -> float:
    """Frechet distance to the training images."""
    return float(frechet_distance(*gaussian_fit(features(images)), *gaussian_fit(features(digits()[0]))))


def floor() -> float:
    """That of the test images, which nothing that was sampled should be expected to beat."""
    return distance(digits()[2])


@torch.no_grad()
def recognised(images: Tensor, labels: Sequence[int]) -> float:
    """Share of the images that the classifier takes for what they were meant to be."""
    return float((classifier()(images).argmax(1) == torch.tensor(labels)).float().mean())


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """(n, 64) in [0, 1]."""
    return (
        torch.stack([torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32)).flatten() for image in images])
        / 255
    )
