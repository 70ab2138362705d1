"""Two sets of images as one, the second one's numbers after those of the first."""

from __future__ import annotations

import numpy as np

from decentral.data.datasets import Indices, LabelledImages, Labels, Pixels
from decentral.errors import UserError


class JoinedImages(LabelledImages):
    """`first` and then `second`, training and test images alike. Normalised as the first is."""

    def __init__(self, first: LabelledImages, second: LabelledImages) -> None:
        """Raises UserError for sets of other images or classes."""
        for what in ("image_shape", "class_names", "white"):
            own, other = getattr(first, what), getattr(second, what)
            if own != other:
                raise UserError(
                    f"these images do not go together: their {what.replace('_', ' ')} is {own}, and {other}"
                )
        self.class_names, self.image_shape, self.white = first.class_names, first.image_shape, first.white
        self.mean, self.std = first.mean, first.std
        self._first, self._second = first, second

    @property
    def train_labels(self) -> Labels:
        return np.concatenate([self._first.train_labels, self._second.train_labels])

    @property
    def test_labels(self) -> Labels:
        return np.concatenate([self._first.test_labels, self._second.test_labels])

    def train_images(self, indices: Indices) -> Pixels:
        before = len(self._first.train_labels)
        late = indices >= before
        found = np.empty((len(indices), *self.image_shape), np.uint8)
        found[~late] = self._first.train_images(indices[~late])
        found[late] = self._second.train_images(indices[late] - before)
        return found

    def test_images(self) -> Pixels:
        return np.concatenate([self._first.test_images(), self._second.test_images()])
