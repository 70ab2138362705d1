"""Images in the latent space of an autoencoder, where denoisers learn as they do from pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from decentral.core.finite import finite
from decentral.data.datasets import Indices, LabelledImages, Labels, Pixels
from decentral.errors import UserError
from decentral.models.autoencoders import encoded, latent_shape
from decentral.training.images import normalise
from decentral.training.loop import choose_device

PART = 256
"""Images that are held as pixels at once."""

Latents = NDArray[np.float32]


class EncodedImages(LabelledImages):
    """What the `autoencoder` makes of `images`, of which no more are read than are asked for. Nothing is kept here.

    Encoding is done on `device` and depends on an image and those that are encoded with it alone, so that equal peers
    have equal latents.
    """

    def __init__(self, images: LabelledImages, autoencoder: nn.Module, device: str = "cpu") -> None:
        """Raises UserError for images that the autoencoder cannot take, and for a device that is not there."""
        self.images = images
        self.class_names, self.image_shape = images.class_names, latent_shape(autoencoder, images.image_shape)
        self.mean, self.std = (0.0,) * self.image_shape[0], (1.0,) * self.image_shape[0]
        self._device = choose_device(device)
        self.autoencoder = autoencoder.to(self._device)

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def train_labels(self) -> Labels:
        return self.images.train_labels

    @property
    def test_labels(self) -> Labels:
        return self.images.test_labels

    def train_images(self, indices: Indices) -> Latents:  # type: ignore[override]
        """float32 [len(indices), c, h, w]. Raises UserError where a latent is not finite."""
        return self._encoded(self.images.train_images, indices)

    def test_images(self) -> Latents:  # type: ignore[override]
        return self.some_test_images(np.arange(len(self.test_labels)))

    def some_test_images(self, indices: Indices) -> Latents:  # type: ignore[override]
        return self._encoded(self.images.some_test_images, indices)

    def _encoded(self, read: Callable[[Indices], Pixels], indices: Indices) -> Latents:
        channels = self.images.image_shape[0]
        middle, half = self.images.span
        latents = np.empty((len(indices), *self.image_shape), np.float32)
        for start in range(0, len(indices), PART):
            pixels = torch.from_numpy(read(indices[start : start + PART])).to(self._device)
            found = encoded(self.autoencoder, normalise(pixels, (middle,) * channels, (half,) * channels))
            if not finite(found):
                raise UserError("vae.folder: the autoencoder makes what is not finite of these images")
            latents[start : start + PART] = found.cpu().numpy()
        return latents
