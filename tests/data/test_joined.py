"""Two sets of images as one: every image and label is where its number says, whichever set it is of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.data.datasets import ArrayImages
from decentral.data.joined import JoinedImages
from decentral.errors import UserError

FIRST, SECOND = 7, 5


def some(count: int, seed: int, side: int = 4, classes: int = 3) -> ArrayImages:
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 255, (count + 2, 1, side, side), dtype=np.uint8)
    labels = chance.integers(0, classes, count + 2).astype(np.int64)
    names = tuple(map(str, range(classes)))
    return ArrayImages(images[:count], labels[:count], images[count:], labels[count:], names, (1.0,), (2.0,))


@given(st.lists(st.integers(0, FIRST + SECOND - 1), max_size=20))
def test_each_number_is_the_image_of_one_of_the_sets(numbers: list[int]) -> None:
    one, other = some(FIRST, 0), some(SECOND, 1)
    both, indices = JoinedImages(one, other), np.array(numbers, dtype=np.int64)
    everything = np.concatenate([one.images, other.images])
    assert np.array_equal(both.train_images(indices), everything[indices])
    assert np.array_equal(both.train_labels, np.concatenate([one.labels, other.labels]))


def test_test_images_follow_those_of_the_first() -> None:
    one, other = some(FIRST, 0), some(SECOND, 1)
    both = JoinedImages(one, other)
    assert np.array_equal(both.test_images(), np.concatenate([one.test_images(), other.test_images()]))
    assert np.array_equal(both.test_labels, np.concatenate([one.test_labels, other.test_labels]))
    assert np.array_equal(both.some_test_images(np.array([3, 0])), both.test_images()[[3, 0]])
    assert (both.classes, both.span, both.mean) == (one.classes, one.span, one.mean)


@pytest.mark.parametrize(
    ("other", "problem"), [(some(3, 1, side=8), "image shape"), (some(3, 1, classes=2), "class names")]
)
def test_other_images_or_classes_are_refused(other: ArrayImages, problem: str) -> None:
    with pytest.raises(UserError, match=f"do not go together: their {problem}"):
        JoinedImages(some(3, 0), other)
