"""Images in one folder per class: `root/folder/{train,val}/<class>/*.jpg`, the layout of torchvision's ImageFolder."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from decentral.data.datasets import Indices, LabelledImages, Labels, Pixels
from decentral.errors import DatasetNotFound, UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def image_folder(root: Path, verify: bool, download: bool, *, folder: str = "", size: int = 64) -> ImageFolder:
    """The images under `root/folder`, cut to their central square and scaled to `size` x `size` pixels.

    The classes are the sub-folders of `train/` in alphabetical order. There is nothing to download or to verify.
    """
    if size < 1:
        raise UserError(f"image-folder: size must be at least 1, not {size}")
    if Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise UserError(f"image-folder: folder {folder!r} must lie under data.root")
    return ImageFolder(root / folder, size)


class ImageFolder(LabelledImages):
    """Decodes the images that it is asked for, when it is asked. Normalised with ImageNet's statistics."""

    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __init__(self, folder: Path, size: int) -> None:
        self.image_shape = (3, size, size)
        self._size = size
        self._train, self._test = folder / "train", folder / "val"
        for part in (self._train, self._test):
            if not part.is_dir():
                raise DatasetNotFound(
                    f"dataset 'image-folder': {part} not found. It must hold one folder of images for each class; "
                    "data.root or $DECENTRAL_DATA names the folder above, the option `folder` the dataset in it."
                )
        self.class_names = tuple(sorted(path.name for path in self._train.iterdir() if path.is_dir()))
        unknown = sorted({path.name for path in self._test.iterdir() if path.is_dir()} - {*self.class_names})
        if unknown:
            raise UserError(f"dataset 'image-folder': {self._test} has classes without training images: {unknown}")

    @cached_property
    def _train_files(self) -> list[tuple[Path, int]]:
        return self._files(self._train)

    @cached_property
    def _test_files(self) -> list[tuple[Path, int]]:
        return self._files(self._test)

    @cached_property
    def train_labels(self) -> Labels:
        return np.array([label for _, label in self._train_files], dtype=np.int64)

    @cached_property
    def test_labels(self) -> Labels:
        return np.array([label for _, label in self._test_files], dtype=np.int64)

    def train_images(self, indices: Indices) -> Pixels:
        return self._decode([self._train_files[index][0] for index in indices])

    def test_images(self) -> Pixels:
        return self._decode([file for file, _ in self._test_files])

    def some_test_images(self, indices: Indices) -> Pixels:
        return self._decode([self._test_files[index][0] for index in indices])

    def _files(self, part: Path) -> list[tuple[Path, int]]:
        """Every image of a part with its label, in an order that does not depend on the file system."""
        files = [
            (path, label)
            for label, name in enumerate(self.class_names)
            for path in sorted((part / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise DatasetNotFound(f"dataset 'image-folder': no image ({', '.join(sorted(SUFFIXES))}) under {part}")
        return files

    def _decode(self, files: list[Path]) -> Pixels:
        images = np.empty((len(files), *self.image_shape), dtype=np.uint8)
        for row, file in enumerate(files):
            images[row] = decode(file, self._size)
        return images


def decode(file: Path, size: int) -> Pixels:
    """An image's central square in RGB, uint8 [3, size, size]. Raises UserError where it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image: {error}") from error
    return np.asarray(square).transpose(2, 0, 1)
