from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decentral.data.datasets import load_dataset
from decentral.errors import DatasetNotFound, UserError


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes, one of them nested as in Tiny ImageNet; every image of one colour."""
    for name, colour, count in (("train/cat", 10, 3), ("train/dog/images", 200, 2), ("val/cat", 20, 1)):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (12, 8), (colour + number, 0, 255)).save(folder / f"{number}.png")
        (folder / "readme.txt").write_text("no image")
    (tmp_path / "pets" / "val" / "dog").mkdir()
    Image.new("L", (5, 5), 7).save(tmp_path / "pets" / "val" / "dog" / "grey.png")
    return tmp_path


def test_classes_are_the_folders_and_only_the_images_asked_for_are_decoded(pets: Path) -> None:
    dataset = load_dataset("image-folder", root=pets, folder="pets", size=6)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (3, 6, 6)
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1]
    (pets / "pets" / "train" / "cat" / "1.png").write_bytes(b"damaged")
    images = dataset.train_images(np.array([4, 0]))
    assert images.shape == (2, 3, 6, 6)
    assert images[:, 0, 0, 0].tolist() == [201, 10]
    with pytest.raises(UserError, match=r"cat/1\.png cannot be read"):
        dataset.train_images(np.array([1]))


def test_grey_images_become_three_channels(pets: Path) -> None:
    dataset = load_dataset("image-folder", root=pets, folder="pets", size=4)
    assert dataset.test_labels.tolist() == [0, 1]
    assert dataset.test_images()[:, :, 0, 0].tolist() == [[20, 0, 255], [7, 7, 7]]


def test_test_images_are_decoded_alone_where_only_some_are_asked_for(pets: Path) -> None:
    dataset = load_dataset("image-folder", root=pets, folder="pets", size=4)
    assert np.array_equal(dataset.some_test_images(np.array([1, 0])), dataset.test_images()[[1, 0]])
    (pets / "pets" / "val" / "cat" / "0.png").write_bytes(b"damaged")
    assert dataset.some_test_images(np.array([1])).shape == (1, 3, 4, 4)


def test_a_class_without_training_images_is_refused(pets: Path) -> None:
    (pets / "pets" / "val" / "bird").mkdir()
    with pytest.raises(UserError, match="bird"):
        load_dataset("image-folder", root=pets, folder="pets")


def test_folders_without_images_are_not_found(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
    dataset = load_dataset("image-folder", root=tmp_path)
    with pytest.raises(DatasetNotFound, match="no image"):
        _ = dataset.train_labels


@pytest.mark.parametrize("folder", ["../secret", "/etc", "a/../../b"])
def test_a_folder_outside_the_root_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must lie under"):
        load_dataset("image-folder", root=tmp_path, folder=folder)


def test_an_impossible_size_is_refused(pets: Path) -> None:
    with pytest.raises(UserError, match="size"):
        load_dataset("image-folder", root=pets, folder="pets", size=0)
