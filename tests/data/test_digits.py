from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from decentral.data.datasets import LabelledImages, load_dataset
from decentral.errors import DatasetNotFound


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_dataset("digits")


def test_the_images_are_those_of_scikit_learn(digits: LabelledImages) -> None:
    from sklearn.datasets import load_digits

    expected = load_digits()
    ours = np.concatenate([digits.train_images(np.arange(len(digits.train_labels))), digits.test_images()])
    labels = np.concatenate([digits.train_labels, digits.test_labels])

    def rows(images: np.ndarray, targets: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), -1), targets]).astype(int).tolist()))

    assert rows(ours, labels) == rows(expected.images, expected.target)


def test_a_fifth_of_every_class_is_held_out(digits: LabelledImages) -> None:
    held_out, kept = np.bincount(digits.test_labels), np.bincount(digits.train_labels)
    assert digits.classes == len(held_out) == 10
    assert np.array_equal(held_out, (held_out + kept) // 5)


def test_the_split_is_the_same_in_every_version(digits: LabelledImages) -> None:
    assert (len(digits.train_labels), len(digits.test_labels)) == (1442, 355)
    assert digits.train_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert digits.test_labels[:10].tolist() == [5, 0, 9, 8, 7, 1, 2, 6, 3, 4]


def test_normalised_pixels_are_exact(digits: LabelledImages) -> None:
    pixels = digits.test_images()
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 16)
    normalised = (pixels.astype(np.float32) - np.float32(digits.mean[0])) / np.float32(digits.std[0])
    assert np.array_equal(normalised.astype(np.float64) * 16, pixels)


def test_without_scikit_learn_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetNotFound, match="pip install scikit-learn"):
        load_dataset("digits")
    empty = ModuleSpec("sklearn", None, is_package=True)
    empty.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: empty)
    with pytest.raises(DatasetNotFound, match=str(tmp_path)):
        load_dataset("digits")
