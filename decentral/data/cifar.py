"""CIFAR-10 and CIFAR-100: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

They are published as pickles. These are read without running anything that they name: three stand-ins take the place of
numpy's constructors, and every other name is refused. Labels and images of a file are read apart, so that a peer never
holds more than its share and one file.
"""

from __future__ import annotations

import io
import pickle  # only for the base class of the reader below, which constructs nothing that a file names
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from decentral.data.archives import Archive, Fetch
from decentral.data.datasets import Indices, LabelledImages, Labels, Pixels
from decentral.errors import UserError

IMAGE_SHAPE = (3, 32, 32)
BYTES = 3 * 32 * 32


def _fetch_cifar10() -> Fetch:
    from torchvision.datasets import CIFAR10

    return lambda root: CIFAR10(root, download=True)


def _fetch_cifar100() -> Fetch:
    from torchvision.datasets import CIFAR100

    return lambda root: CIFAR100(root, download=True)


CIFAR10 = Archive(
    name="cifar10",
    md5={
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    fetch=_fetch_cifar10,
)
CIFAR100 = Archive(
    name="cifar100",
    md5={
        "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
        "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
    },
    fetch=_fetch_cifar100,
)


def cifar10(root: Path, verify: bool, download: bool) -> Cifar:
    """50,000 training and 10,000 test images of 32x32 in 10 classes, under `root/cifar-10-batches-py/`."""
    folder = CIFAR10.open(root, verify, download) / "cifar-10-batches-py"
    return Cifar(
        train=[folder / f"data_batch_{number}" for number in range(1, 6)],
        test=folder / "test_batch",
        label_key="labels",
        class_names=_names(folder / "batches.meta", "label_names"),
        mean=(125.31, 122.95, 113.87),
        std=(62.99, 62.09, 66.70),
    )


def cifar100(root: Path, verify: bool, download: bool) -> Cifar:
    """50,000 training and 10,000 test images of 32x32 in 100 classes, under `root/cifar-100-python/`."""
    folder = CIFAR100.open(root, verify, download) / "cifar-100-python"
    return Cifar(
        train=[folder / "train"],
        test=folder / "test",
        label_key="fine_labels",
        class_names=_names(folder / "meta", "fine_label_names"),
        mean=(129.30, 124.07, 112.43),
        std=(68.17, 65.39, 70.42),
    )


class Cifar(LabelledImages):
    """The images of one or more training files, in their order, and of one test file."""

    image_shape = IMAGE_SHAPE

    def __init__(
        self,
        *,
        train: list[Path],
        test: Path,
        label_key: str,
        class_names: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.class_names, self.mean, self.std = class_names, mean, std
        self._train, self._test, self._label_key = train, test, label_key

    @cached_property
    def _labels_of_files(self) -> list[Labels]:
        return [self._labels(file) for file in self._train]

    @cached_property
    def train_labels(self) -> Labels:
        return np.concatenate(self._labels_of_files)

    @cached_property
    def test_labels(self) -> Labels:
        return self._labels(self._test)

    def train_images(self, indices: Indices) -> Pixels:
        images = np.empty((len(indices), *IMAGE_SHAPE), dtype=np.uint8)
        first = 0
        for file, labels in zip(self._train, self._labels_of_files, strict=True):
            wanted = np.flatnonzero((indices >= first) & (indices < first + len(labels)))
            if len(wanted):
                images[wanted] = _images(file)[indices[wanted] - first]
            first += len(labels)
        if len(indices) and (indices.min() < 0 or indices.max() >= first):
            raise IndexError(f"indices must be in 0..{first - 1}")
        return images

    def test_images(self) -> Pixels:
        return _images(self._test)

    def _labels(self, file: Path) -> Labels:
        labels = _read(file).get(self._label_key)
        if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
            raise UserError(f"{file}: no list of labels under {self._label_key!r}")
        array = np.array(labels, dtype=np.int64)
        if len(array) and not 0 <= array.min() <= array.max() < self.classes:
            raise UserError(f"{file}: labels outside 0..{self.classes - 1}")
        return array


def _images(file: Path) -> Pixels:
    data = _read(file).get("data")
    array = data.array if isinstance(data, _Array) else None
    if array is None or array.ndim != 2 or array.shape[1] != BYTES:
        raise UserError(f"{file}: no images of {BYTES} bytes under 'data'")
    return array.reshape(-1, *IMAGE_SHAPE)


def _names(file: Path, key: str) -> tuple[str, ...]:
    names = _read(file).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: no list of class names under {key!r}")
    return tuple(names)


class _Dtype:
    """Stands in for numpy.dtype. Images are bytes: no other type is taken, and a byte has no order to restore."""

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        if code != "u1":
            raise pickle.UnpicklingError(f"an array of {code!r} where one of bytes was expected")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes do not have."""


class _Array:
    """Stands in for a numpy array: `array` is a read-only view of the bytes in the file."""

    array: Pixels | None = None

    def __setstate__(self, state: tuple[object, tuple[int, ...], object, bool, bytes | str]) -> None:
        _, shape, dtype, by_columns, content = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array without a type")
        # Python 2 wrote its bytes as text, which is read here as Latin-1: one character for each byte.
        raw = content.encode("latin-1") if isinstance(content, str) else content
        self.array = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if by_columns else "C")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    """Stands in for numpy's function of that name, which makes an empty array whose state follows."""
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of a foreign kind")
    return _Array()


def _frombuffer(content: bytes, dtype: object, shape: tuple[int, ...], order: str) -> _Array:
    """Stands in for numpy's function of that name, with which the newest protocol writes an array at once."""
    array = _Array()
    array.__setstate__((None, shape, dtype, order == "F", bytes(content)))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for codecs.encode, with which Python 3 writes bytes in the old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin-1")


class _Reader(pickle.Unpickler):
    """Builds lists, dictionaries, numbers, text and arrays of bytes; refuses whatever else a file names."""

    STAND_INS: Mapping[tuple[str, str], object] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _frombuffer,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> object:
        stand_in = self.STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no image needs")
        return stand_in


def _read(file: Path) -> dict[str, Any]:
    """A file's dictionary. Raises UserError where it is damaged or names anything that is not an array of bytes."""
    try:
        content = _Reader(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        AttributeError,
        OverflowError,
    ) as error:
        raise UserError(f"{file} cannot be read as CIFAR images: {error or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} cannot be read as CIFAR images: it holds a {type(content).__name__}")
    return content
