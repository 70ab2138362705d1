"""W1 and W2 for `decentral run`: their split, shares, initialisation and batch order, by the ways open to any user.

    decentral run benchmarks/w1.yaml --plugin benchmarks/plugin.py

Torch is imported where it is used, so that the launcher, which reads this file too, stays without it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decentral.data.datasets import DATASETS, ArrayImages, Indices, Labels, Pixels
from decentral.data.partition import PARTITIONS
from decentral.models.catalogue import MODELS
from decentral.training.catalogue import LEARNERS

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the workload stands beside this file

import workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decentral.training.learner import Evaluation, TrainingReport


@DATASETS.register("workload-digits")
def digits(root: Path, verify: bool, download: bool) -> ArrayImages:
    """The workload's own split; pixels are 0 to 16."""
    with np.load(workload.DIGITS) as file:
        parts = {name: file[name] for name in ("train_x", "train_y", "test_x", "test_y")}
    images = {name: (parts[name] * 16).astype(np.uint8).reshape(-1, 1, 8, 8) for name in ("train_x", "test_x")}
    return ArrayImages(
        images=images["train_x"],
        labels=parts["train_y"],
        held_out_images=images["test_x"],
        held_out_labels=parts["test_y"],
        class_names=tuple(map(str, range(10))),
        mean=(0.0,),
        std=(16.0,),
    )


@PARTITIONS.register("workload-iid")
def iid(labels: Labels, peers: int, generator: np.random.Generator) -> list[Indices]:
    """The workload's shares, whatever the recipe's seed is."""
    return np.array_split(np.random.default_rng(workload.SEED).permutation(len(labels)), peers)


@MODELS.register("workload-perceptron")
def perceptron(input_shape: tuple[int, ...], classes: int, hidden: list[int]) -> nn.Module:
    """The workload's initialisation, whatever the recipe's seed is."""
    return workload.perceptron((int(np.prod(input_shape)), *hidden, classes))


@LEARNERS.register("workload")
class WorkloadLearner:
    """One local epoch a round in the workload's batch order, with a fresh optimiser."""

    def __init__(self, model: nn.Module, dataset: ArrayImages, share: Indices, peer: int, **_: object) -> None:
        self.model = model
        self.samples = len(share)
        self._peer = peer
        self._train = self._tensors(dataset, dataset.train_images(share), dataset.train_labels[share])
        self._test = self._tensors(dataset, dataset.test_images(), dataset.test_labels)

    @staticmethod
    def _tensors(dataset: ArrayImages, pixels: Pixels, labels: Labels) -> tuple[Tensor, Tensor]:
        import torch

        return torch.from_numpy(pixels).flatten(1).float() / dataset.std[0], torch.from_numpy(labels)

    def train(self, round: int) -> TrainingReport:
        from decentral.training.learner import TrainingReport

        loss = workload.epoch(self.model, *self._train, round=round, peer=self._peer)
        return TrainingReport(loss, self.samples, steps=-(-self.samples // workload.BATCH))

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(dict(parameters))

    def evaluate(self) -> Evaluation:
        from decentral.training.learner import Evaluation

        loss, accuracy = workload.score(self.model, *self._test)
        return Evaluation(loss, accuracy, samples=len(self._test[1]))
