"""The learner of a peer that classifies images: local training, evaluation, and its state in and out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages
from decentral.data.partition import subset
from decentral.training.evaluation import evaluate
from decentral.training.images import NormalisedImages
from decentral.training.learner import Evaluation
from decentral.training.loop import LocalTraining, Settings

MATCHING_BATCH = 128


class ClassifierLearner(LocalTraining):
    """Trains `model` on the images `share` of `dataset` with cross-entropy; settings are those of `LocalTraining`.

    `matching_samples` of the share, drawn once, are what the peer matches and re-estimates BatchNorm on; where `proxy`
    names other training images, it is all of those. `evaluation_samples` test images, class-balanced, are what it is
    evaluated on; None: all. Matching and evaluation are float32.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: LabelledImages,
        share: Indices,
        *,
        matching_samples: int = 512,
        proxy: Indices | None = None,
        evaluation_samples: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(model, dataset, share, **settings)
        self.matching_samples = min(matching_samples, len(share)) if proxy is None else len(proxy)
        self._evaluation_samples = evaluation_samples
        self._proxy = None if proxy is None else self._normalised(torch.from_numpy(dataset.train_images(proxy)))
        self._test: tuple[NormalisedImages, Tensor] | None = None

    def loss(self, images: Float[Tensor, "b c h w"], batch: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        return functional.cross_entropy(self.model(images), self._labels[batch])

    def evaluate(self) -> Evaluation:
        return evaluate(self.model, *self.test_set())

    def test_set(self) -> tuple[NormalisedImages, Int[Tensor, " n"]]:
        """The test images that this peer is evaluated on, and their labels."""
        if self._test is None:
            labels = self._dataset.test_labels
            chosen = subset(labels, self._evaluation_samples, self.seed, "evaluation.samples")
            images = self._normalised(torch.from_numpy(self._dataset.test_images()[chosen]))
            self._test = images, torch.from_numpy(labels[chosen]).to(self.device)
        return self._test

    def matching_batches(self) -> Sequence[Float[Tensor, "b c h w"]]:
        images = self._images if self._proxy is None else self._proxy
        whose = (self.peer,) if self._proxy is None else ()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "matching", *whose))
        chosen = torch.randperm(len(images), generator=generator)[: self.matching_samples].to(self.device)
        batches = math.ceil(len(chosen) / MATCHING_BATCH)
        return [images[part] for part in chosen.tensor_split(batches)]  # even parts: none is a single image
