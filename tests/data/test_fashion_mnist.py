from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from decentral.data.datasets import load_dataset
from decentral.data.fashion_mnist import read_idx
from decentral.errors import UserError


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", magic or 0x0800 + array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
    labels = np.arange(9, dtype=np.uint8)
    for part, chosen in (("train", slice(0, 6)), ("t10k", slice(6, 9))):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images[chosen]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels[chosen]))
    return tmp_path, images, labels


def test_images_and_labels_are_read(tiny: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, images, labels = tiny
    dataset = load_dataset("fashion-mnist", root=root, verify=False)
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.classes == 10
    assert np.array_equal(dataset.train_images(np.array([5, 1])), images[[5, 1], None])
    assert np.array_equal(dataset.test_images(), images[6:, None])
    assert np.array_equal(np.concatenate([dataset.train_labels, dataset.test_labels]), labels)


def test_archives_that_are_not_the_published_ones_are_refused_when_verified(
    tiny: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    with pytest.raises(UserError, match="is not the published file"):
        load_dataset("fashion-mnist", root=tiny[0])


LABELS = np.arange(4, dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(LABELS)[:-6], "damaged"),
        (b"plain bytes", "damaged"),
        (idx(LABELS, magic=0x0D01), "not an IDX file"),
        (idx(LABELS.reshape(2, 2)), "not an IDX file"),
        (gzip.compress(struct.pack(">2I", 0x0801, 5) + LABELS.tobytes()), "truncated"),
        (gzip.compress(b"\0\0"), "not an IDX file"),
    ],
    ids=["cut off", "not gzip", "floats", "two axes", "fewer labels than said", "no header"],  # the bytes hold the time
)
def test_a_damaged_archive_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    honest = tmp_path / "honest.gz"
    honest.write_bytes(idx(LABELS))
    assert np.array_equal(read_idx(honest, 1), LABELS)
    file = tmp_path / "labels.gz"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(file, 1)
