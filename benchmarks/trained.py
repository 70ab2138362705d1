"""Networks trained apart on real images, kept in .cache/benchmarks/trained so that the next benchmark starts at once.

    apprentice = Apprentice("resnet20", options={"width": 2}, subset=5000, peers=5, peer=3, seed=3, epochs=6)
    learner(apprentice)      # a ClassifierLearner with the trained state: .model, .matching_batches(), .evaluate()
    trained(apprentice)      # the state alone

The images lie under $DECENTRAL_DATA. The pool of `subset` images and its partition are the same whatever the seed, so
peers 0 to n - 1 of one pool hold disjoint shares; peers = 1 gives the whole pool to every seed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages, load_dataset
from decentral.data.partition import partition, subset
from decentral.files import replacing
from decentral.models.catalogue import build_model
from decentral.training.classifier import ClassifierLearner
from decentral.training.loop import choose_device

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks" / "trained"
POOL_SEED = 0


@dataclass(frozen=True)
class Apprentice:
    """Everything that the trained state depends on."""

    model: str
    options: Mapping[str, object] = field(default_factory=dict)
    dataset: str = "cifar10"
    subset: int | None = 5000
    """Training images in the pool, class-balanced; None: all."""
    peers: int = 1
    peer: int = 0
    """The holder of one of `peers` shares of the pool."""
    share: str = "iid"
    share_options: Mapping[str, object] = field(default_factory=dict)
    epochs: int = 10
    seed: int = 0
    """Of the initial parameters and of the order of images: apprentices of different seeds share nothing."""
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    augment: bool = True

    def file(self) -> Path:
        """Where the state is kept: a name for a person, and a digest of every field."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        return (
            CACHE
            / f"{self.model.replace('/', '-')}-{self.dataset}-seed{self.seed}-peer{self.peer}-{digest}.safetensors"
        )


@lru_cache(maxsize=2)
def images(dataset: str) -> LabelledImages:
    """Copies whose archive checksums differ are accepted: figures name the subset that they were measured on."""
    return load_dataset(dataset, verify=False)


def pool(apprentice: Apprentice) -> list[Indices]:
    """The indices of each peer's training images."""
    labels = images(apprentice.dataset).train_labels
    chosen = subset(labels, apprentice.subset, POOL_SEED)
    parts = partition(
        apprentice.share, labels[chosen], apprentice.peers, POOL_SEED, **cast(dict[str, Any], apprentice.share_options)
    )
    return [np.sort(chosen[part]) for part in parts]


def untrained(
    apprentice: Apprentice, *, device: str = "cpu", matching_samples: int = 512, evaluation_samples: int | None = None
) -> ClassifierLearner:
    """The learner at its first parameters."""
    data = images(apprentice.dataset)
    torch.manual_seed(derive_seed(apprentice.seed, "initialise"))
    return ClassifierLearner(
        build_model(apprentice.model, data.image_shape, data.classes, **apprentice.options),
        data,
        pool(apprentice)[apprentice.peer],
        peer=apprentice.peer,
        seed=apprentice.seed,
        pretrain_epochs=apprentice.epochs,
        batch_size=apprentice.batch_size,
        optimizer=apprentice.optimizer,
        learning_rate=apprentice.learning_rate,
        weight_decay=apprentice.weight_decay,
        matching_samples=matching_samples,
        evaluation_samples=evaluation_samples,
        augment=apprentice.augment,
        device=device,
    )


def learner(
    apprentice: Apprentice, *, device: str = "cpu", matching_samples: int = 512, evaluation_samples: int | None = None
) -> ClassifierLearner:
    """The learner after its training, which is done now unless a state of the same description is kept."""
    found = untrained(
        apprentice, device=device, matching_samples=matching_samples, evaluation_samples=evaluation_samples
    )
    file = apprentice.file()
    if file.is_file():
        found.load(load_file(file, device=str(choose_device(device))))
        return found
    began = time.monotonic()
    report = found.train(0)
    seconds = time.monotonic() - began
    print(f"trained {file.stem} in {seconds:.0f} s, loss {report.loss:.3f}", file=sys.stderr, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file(found.parameters(), partial)
    return found


def trained(apprentice: Apprentice, *, device: str = "cpu") -> dict[str, Tensor]:
    """The state alone, on the CPU."""
    file = apprentice.file()
    return load_file(file) if file.is_file() else learner(apprentice, device=device).parameters()
