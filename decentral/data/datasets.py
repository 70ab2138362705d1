"""Labelled images by name.

A dataset tells its labels before it decodes an image, so that the partition is known to every peer and each decodes its
own share alone. Pixels stay uint8 until they are used; `mean` and `std` are in units of a pixel's value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decentral.data.archives import data_root
from decentral.errors import UserError
from decentral.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "digits": "decentral.data.digits:digits",
        "cifar10": "decentral.data.cifar:cifar10",
        "cifar100": "decentral.data.cifar:cifar100",
        "fashion-mnist": "decentral.data.fashion_mnist:fashion_mnist",
        "image-folder": "decentral.data.image_folder:image_folder",
    },
)
"""Constructors `(root: Path, verify: bool, download: bool, **options) -> LabelledImages`."""

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class LabelledImages(ABC):
    """Images for training and testing, each with one label in `range(classes)`."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of each channel: a network sees (pixel - mean) / std."""
    white: int = 255
    """The largest value of a pixel; the smallest is zero."""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def span(self) -> tuple[float, float]:
        """The middle of a pixel's values and half of their range: a denoiser sees (pixel - middle) / half."""
        return self.white / 2, self.white / 2

    @property
    @abstractmethod
    def train_labels(self) -> Labels:
        """[n], without decoding an image."""

    @property
    @abstractmethod
    def test_labels(self) -> Labels:
        """[m], without decoding an image."""

    @abstractmethod
    def train_images(self, indices: Indices) -> Pixels:
        """[len(indices), c, h, w], in the order asked for."""

    @abstractmethod
    def test_images(self) -> Pixels:
        """[m, c, h, w]."""

    def some_test_images(self, indices: Indices) -> Pixels:
        """[len(indices), c, h, w], in the order asked for."""
        return self.test_images()[indices]


@dataclass(frozen=True)
class ArrayImages(LabelledImages):
    """A dataset that fits in memory: uint8 images [n, c, h, w] and integer labels [n]."""

    images: Pixels
    labels: Labels
    held_out_images: Pixels
    held_out_labels: Labels
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: int = 255

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def train_labels(self) -> Labels:
        return self.labels

    @property
    def test_labels(self) -> Labels:
        return self.held_out_labels

    def train_images(self, indices: Indices) -> Pixels:
        return self.images[indices]

    def test_images(self) -> Pixels:
        return self.held_out_images


class Coloured(LabelledImages):
    """A grayscale dataset as images of three equal channels, each normalised as the one was."""

    def __init__(self, gray: LabelledImages) -> None:
        channels, height, width = gray.image_shape
        if channels != 1:
            raise UserError(f"data.channels: 3 is for grayscale images; these have {channels} channels")
        self.class_names, self.image_shape = gray.class_names, (3, height, width)
        self.mean, self.std = 3 * gray.mean, 3 * gray.std
        self.white = gray.white
        self._gray = gray

    @property
    def train_labels(self) -> Labels:
        return self._gray.train_labels

    @property
    def test_labels(self) -> Labels:
        return self._gray.test_labels

    def train_images(self, indices: Indices) -> Pixels:
        return np.repeat(self._gray.train_images(indices), 3, axis=1)

    def test_images(self) -> Pixels:
        return np.repeat(self._gray.test_images(), 3, axis=1)


def load_dataset(
    name: str,
    *,
    root: Path | str | None = None,
    verify: bool = True,
    download: bool = False,
    channels: int | None = None,
    **options: object,
) -> LabelledImages:
    """The dataset `name`, looked for under `root` (None: $DECENTRAL_DATA, or ~/.cache/decentral/data).

    `verify` compares archives with the published MD5 sums; `download` fetches what is missing; `channels=3` repeats
    the channel of grayscale images and leaves colour images as they are. Raises DatasetNotFound that says what was
    looked for, where, and how to get it; UserError for a name or an option that does not exist, and for a damaged copy.
    """
    dataset: LabelledImages = DATASETS.construct(name, data_root(root), verify, download, **options)
    if channels in (None, dataset.image_shape[0]):
        return dataset
    if channels != 3:
        raise UserError(f"data.channels: must be 3, which repeats the channel of grayscale images, not {channels}")
    return Coloured(dataset)
