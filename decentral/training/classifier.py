"""The learner of a peer that classifies images: local training, evaluation, and its state in and out.

Every random choice is drawn from (seed, peer, round), so a round's result depends on the state at its beginning alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages
from decentral.errors import DecentralError, UserError
from decentral.training.evaluation import evaluate
from decentral.training.images import NormalisedImages, augment
from decentral.training.learner import Evaluation, State, TrainingReport
from decentral.training.optimiser import Optimiser, build_optimiser

MATCHING_BATCH = 128


class ClassifierLearner:
    """Trains `model` on the images `share` of `dataset` (indices of training images) with cross-entropy.

    `matching_samples` of the share, drawn once, are what the peer matches and re-estimates BatchNorm on.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: LabelledImages,
        share: Indices,
        *,
        peer: int = 0,
        seed: int = 0,
        epochs: int = 1,
        pretrain_epochs: int = 0,
        batch_size: int = 32,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        fresh_optimizer: bool = True,
        matching_samples: int = 512,
        augment: bool = False,
        device: str = "cpu",
    ) -> None:
        if len(share) == 0:
            raise UserError(f"peer {peer} has no training image")
        self.device = choose_device(device)
        self.model = model.to(self.device)
        self.samples = len(share)
        self.peer, self.seed = peer, seed
        self._epochs, self._pretrain_epochs, self._batch_size = epochs, pretrain_epochs, batch_size
        self._optimizer, self._fresh = optimizer, fresh_optimizer
        self._learning_rate, self._momentum, self._weight_decay = learning_rate, momentum, weight_decay
        self.matching_samples, self._augment = min(matching_samples, len(share)), augment
        self._dataset = dataset
        self._images = self._normalised(torch.from_numpy(dataset.train_images(share)))
        self._labels = torch.from_numpy(dataset.train_labels[share]).to(self.device)
        self._test: tuple[NormalisedImages, Tensor] | None = None
        self._optimiser = self._new_optimiser()

    def train(self, round: int) -> TrainingReport:
        """Raises DecentralError where the loss is no longer finite: the learning rate is too high, or data wrong."""
        torch.manual_seed(derive_seed(self.seed, "train", self.peer, round))  # dropout draws from the global generator
        crops = torch.Generator().manual_seed(derive_seed(self.seed, "augment", self.peer, round))
        if self._fresh:
            self._optimiser = self._new_optimiser()
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        seen = steps = 0
        for epoch in range(self._epochs if round > 0 else self._pretrain_epochs):
            for batch in self._batches(round, epoch):
                images = augment(self._images[batch], crops) if self._augment else self._images[batch]
                loss = functional.cross_entropy(self.model(images), self._labels[batch])
                torch.autograd.backward(loss)
                self._optimiser.step()
                total += loss.detach() * len(batch)  # stays on the device: reading it would wait for every step
                seen, steps = seen + len(batch), steps + 1
        if self._fresh:
            self._optimiser = self._new_optimiser()  # its memory is as large as the model
        mean = total.item() / seen if seen else 0.0
        if not math.isfinite(mean):
            raise DecentralError(
                f"peer {self.peer}, round {round}: the training loss is {mean}; a lower training.learning_rate may help"
            )
        return TrainingReport(loss=mean, samples=seen, steps=steps)

    def class_counts(self) -> list[int]:
        return torch.bincount(self._labels, minlength=self._dataset.classes).tolist()

    def shuffle_seed(self, round: int, epoch: int) -> int:
        """The seed of one epoch's order of images."""
        return derive_seed(self.seed, "shuffle", self.peer, round, epoch)

    def parameters(self) -> dict[str, Tensor]:
        return {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
            for name, tensor in self.model.state_dict().items()
        }

    def view(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def load(self, parameters: State) -> None:
        own = self.model.state_dict()
        check_schema(own, parameters)
        for name, tensor in own.items():
            tensor.copy_(parameters[name])

    def evaluate(self) -> Evaluation:
        if self._test is None:
            labels = torch.from_numpy(self._dataset.test_labels).to(self.device)
            self._test = self._normalised(torch.from_numpy(self._dataset.test_images())), labels
        return evaluate(self.model, *self._test)

    def matching_batches(self) -> Sequence[Float[Tensor, "b c h w"]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "matching", self.peer))
        chosen = torch.randperm(self.samples, generator=generator)[: self.matching_samples].to(self.device)
        batches = math.ceil(len(chosen) / MATCHING_BATCH)
        return [self._images[part] for part in chosen.tensor_split(batches)]  # even parts: none is a single image

    def optimizer_state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep beside the parameters; empty where each round starts with a fresh optimiser."""
        return self._optimiser.state()

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError where the state belongs to another model or optimiser."""
        self._optimiser.restore(state)

    def _batches(self, round: int, epoch: int) -> list[Int[Tensor, " b"]]:
        generator = torch.Generator().manual_seed(self.shuffle_seed(round, epoch))
        order = torch.randperm(self.samples, generator=generator).to(self.device)
        batches = list(torch.split(order, self._batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm has no variance to take of one image
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _new_optimiser(self) -> Optimiser:
        return build_optimiser(
            self._optimizer,
            dict(self.model.named_parameters()),
            learning_rate=self._learning_rate,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
        )

    def _normalised(self, pixels: Tensor) -> NormalisedImages:
        return NormalisedImages(pixels.to(self.device), self._dataset.mean, self._dataset.std)


def choose_device(name: str) -> torch.device:
    """`auto` is the accelerator where there is one. Raises UserError for one that this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def check_schema(own: State, other: State) -> None:
    """Raises ValueError that names the first tensor whose presence, shape or type differs."""
    for name in sorted(own.keys() | other.keys()):
        if name not in other:
            raise ValueError(f"tensor {name!r} is missing")
        if name not in own:
            raise ValueError(f"tensor {name!r} is not part of the model")
        if own[name].shape != other[name].shape:
            raise ValueError(f"tensor {name!r} is {list(other[name].shape)}, not {list(own[name].shape)}")
        if own[name].dtype != other[name].dtype:
            raise ValueError(f"tensor {name!r} is {other[name].dtype}, not {own[name].dtype}")
