"""W1 and W2 for `decentral run`: their split, shares, initialisation and batch order, by the ways open to any user.

    decentral run benchmarks/w1.yaml --plugin benchmarks/plugin.py

Torch is imported where it is used, so that the launcher, which reads this file too, stays without it.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.data.datasets import DATASETS, ArrayImages, Indices, Labels
from decentral.data.partition import PARTITIONS
from decentral.models.catalogue import MODELS
from decentral.training.catalogue import LEARNERS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a plugin is a file, whatever folder it is read from

from benchmarks import workload

if TYPE_CHECKING:
    from torch import nn

    from decentral.training.classifier import ClassifierLearner


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
    from torch import nn

    return nn.Sequential(nn.Flatten(), workload.perceptron((math.prod(input_shape), *hidden, classes)))


@LEARNERS.register("workload")
def learner(**options: Any) -> ClassifierLearner:
    """The usual learner, but for the order of its batches."""
    from decentral.training.classifier import ClassifierLearner

    class Ordered(ClassifierLearner):
        def shuffle_seed(self, round: int, epoch: int) -> int:
            return workload.shuffle_seed(round, self.peer)

    return Ordered(**options)
