from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decentral.data.archives import data_root
from decentral.data.datasets import DATASETS, ArrayImages, load_dataset
from decentral.errors import DatasetNotFound, UserError


def test_the_root_is_the_one_given_then_the_environment_then_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", "/from/environment")
    assert data_root("/given") == Path("/given")
    assert data_root(None) == Path("/from/environment")
    monkeypatch.delenv("DECENTRAL_DATA")
    assert data_root(None) == Path.home() / ".cache" / "decentral" / "data"


def test_neither_torch_nor_scikit_learn_is_imported_to_read_digits() -> None:
    program = (
        "import sys\n"
        "from decentral.data.datasets import load_dataset\n"
        "from decentral.data.partition import partition\n"
        "digits = load_dataset('digits')\n"
        "partition('iid', digits.train_labels, 5, 0)\n"
        "assert len(digits.train_images([0, 1])) == 2\n"
        "print(sorted({'torch', 'torchvision', 'sklearn'} & {*sys.modules}))\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
        ("image-folder", "train"),
    ],
)
def test_a_missing_dataset_says_what_was_looked_for_where_and_how_to_get_it(
    name: str, file: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetNotFound) as error:
        load_dataset(name, root=tmp_path)
    message = str(error.value)
    assert file in message
    assert str(tmp_path) in message
    assert "data.root or $DECENTRAL_DATA" in message


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load_dataset("cifar-10")


def test_an_unknown_option_is_refused_and_a_known_one_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not take folder"):
        load_dataset("digits", folder="x")
    with pytest.raises(DatasetNotFound, match="pictures/train"):
        load_dataset("image-folder", root=tmp_path, folder="pictures")


def test_every_name_resolves_to_a_constructor() -> None:
    for name in DATASETS.names():
        assert callable(DATASETS.resolve(name)), name


def test_grayscale_images_become_three_equal_channels_where_asked() -> None:
    gray, coloured = load_dataset("digits"), load_dataset("digits", channels=3)
    assert coloured.image_shape == (3, 8, 8)
    assert len(coloured.mean) == len(coloured.std) == 3
    chosen = np.array([5, 2])
    for one, three in (
        (gray.train_images(chosen), coloured.train_images(chosen)),
        (gray.test_images(), coloured.test_images()),
    ):
        assert all(np.array_equal(three[:, channel], one[:, 0]) for channel in range(3))
    assert np.array_equal(gray.train_labels, coloured.train_labels)
    assert np.array_equal(gray.test_labels, coloured.test_labels)
    assert coloured.class_names == gray.class_names
    assert load_dataset("digits", channels=1).image_shape == (1, 8, 8)
    with pytest.raises(UserError, match=r"data\.channels: must be 3"):
        load_dataset("digits", channels=2)


def test_colour_images_stay_as_they_are_and_other_channels_are_refused() -> None:
    def shaped(channels: int) -> ArrayImages:
        images, labels = np.zeros((2, channels, 4, 4), dtype=np.uint8), np.array([0, 1])
        return ArrayImages(images, labels, images, labels, ("a", "b"), (0.0,) * channels, (1.0,) * channels)

    @DATASETS.register("test-channels")
    def constructor(root: Path, verify: bool, download: bool, count: int = 3) -> ArrayImages:
        return shaped(count)

    assert load_dataset("test-channels", channels=3).image_shape == (3, 4, 4)
    with pytest.raises(UserError, match=r"data\.channels: 3 is for grayscale images; these have 2 channels"):
        load_dataset("test-channels", channels=3, count=2)


def test_arrays_of_a_user_are_a_dataset() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    dataset = ArrayImages(images[:4], labels[:4], images[4:], labels[4:], ("cat", "dog"), (0.0,) * 3, (255.0,) * 3)
    assert dataset.image_shape == (3, 5, 4)
    assert dataset.classes == 2
    assert np.array_equal(dataset.train_images(np.array([3, 0])), images[[3, 0]])
    assert np.array_equal(dataset.train_labels, labels[:4])
    assert np.array_equal(dataset.test_images(), images[4:])
    assert np.array_equal(dataset.test_labels, labels[4:])
