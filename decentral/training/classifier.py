"""The learner of a peer that classifies images: local training, evaluation, and its state in and out.

Every random choice is drawn from (seed, peer, round), so a round's result depends on the state at its beginning alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages
from decentral.data.partition import subset
from decentral.errors import DecentralError, UserError
from decentral.training.evaluation import evaluate
from decentral.training.images import NormalisedImages, augment
from decentral.training.learner import Evaluation, State, TrainingReport
from decentral.training.optimiser import Optimiser, build_optimiser
from decentral.training.precision import ScaledOptimiser, arithmetic

MATCHING_BATCH = 128


class ClassifierLearner:
    """Trains `model` on the images `share` of `dataset` (indices of training images) with cross-entropy.

    `matching_samples` of the share, drawn once, are what the peer matches and re-estimates BatchNorm on; where `proxy`
    names other training images, it is all of those. `evaluation_samples` test images, class-balanced, are what it is
    evaluated on; None: all. With `steps` a round is as many optimiser steps, and the next round goes on in the epoch
    where it ended; else it is `epochs` whole ones. `precision` is that of a training step's arithmetic: matching and
    evaluation are float32.
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
        steps: int | None = None,
        pretrain_epochs: int = 0,
        batch_size: int = 32,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        fresh_optimizer: bool = True,
        matching_samples: int = 512,
        proxy: Indices | None = None,
        evaluation_samples: int | None = None,
        augment: bool = False,
        precision: str = "float32",
        channels_last: bool = False,
        device: str = "cpu",
    ) -> None:
        if len(share) == 0:
            raise UserError(f"peer {peer} has no training image")
        self.device = choose_device(device)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device).to(memory_format=self._layout)
        self.samples = len(share)
        self.peer, self.seed = peer, seed
        self._epochs, self._pretrain_epochs, self._batch_size = epochs, pretrain_epochs, batch_size
        self._optimizer, self._fresh, self._precision = optimizer, fresh_optimizer, precision
        self._learning_rate, self._momentum, self._weight_decay = learning_rate, momentum, weight_decay
        self.matching_samples = min(matching_samples, len(share)) if proxy is None else len(proxy)
        self._augment, self._evaluation_samples = augment, evaluation_samples
        self._dataset = dataset
        self._images = self._normalised(torch.from_numpy(dataset.train_images(share)))
        self._labels = torch.from_numpy(dataset.train_labels[share]).to(self.device)
        self._proxy = None if proxy is None else self._normalised(torch.from_numpy(dataset.train_images(proxy)))
        self._test: tuple[NormalisedImages, Tensor] | None = None
        self._optimiser = self._new_optimiser()
        self._steps, self._steps_of_an_epoch = steps, len(self._batches(1, 0))
        self._shuffled: tuple[int, list[Int[Tensor, " b"]]] = (-1, [])

    def train(self, round: int, drift: State | None = None) -> TrainingReport:
        """Raises DecentralError where the loss is no longer finite: the learning rate is too high, or data wrong."""
        torch.manual_seed(derive_seed(self.seed, "train", self.peer, round))  # dropout draws from the global generator
        crops = torch.Generator().manual_seed(derive_seed(self.seed, "augment", self.peer, round))
        if self._fresh:
            self._optimiser = self._new_optimiser()
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        seen = 0
        batches = self._round(round)
        shift = self._shift(drift or {}, len(batches))
        for batch in batches:
            images = augment(self._images[batch], crops) if self._augment else self._images[batch]
            with arithmetic(self._precision, self.device):
                loss = functional.cross_entropy(self.model(images), self._labels[batch])
            self._optimiser.backward(loss)
            self._optimiser.step()
            shift()
            total += loss.detach() * len(batch)  # stays on the device: reading it would wait for every step
            seen += len(batch)
        if self._fresh:
            self._optimiser = self._new_optimiser()  # its memory is as large as the model
        mean = total.item() / seen if seen else 0.0
        if not math.isfinite(mean):
            raise DecentralError(
                f"peer {self.peer}, round {round}: the training loss is {mean}; a lower training.learning_rate may help"
            )
        return TrainingReport(loss=mean, samples=seen, steps=len(batches))

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
            labels = self._dataset.test_labels
            chosen = subset(labels, self._evaluation_samples, self.seed, "evaluation.samples")
            images = self._normalised(torch.from_numpy(self._dataset.test_images()[chosen]))
            self._test = images, torch.from_numpy(labels[chosen]).to(self.device)
        return evaluate(self.model, *self._test)

    def matching_batches(self) -> Sequence[Float[Tensor, "b c h w"]]:
        images = self._images if self._proxy is None else self._proxy
        whose = (self.peer,) if self._proxy is None else ()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "matching", *whose))
        chosen = torch.randperm(len(images), generator=generator)[: self.matching_samples].to(self.device)
        batches = math.ceil(len(chosen) / MATCHING_BATCH)
        return [images[part] for part in chosen.tensor_split(batches)]  # even parts: none is a single image

    def optimizer_state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep beside the parameters; empty where each round starts with a fresh optimiser."""
        return self._optimiser.state()

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError where the state belongs to another model or optimiser."""
        self._optimiser.restore(state)

    def _round(self, round: int) -> list[Int[Tensor, " b"]]:
        """The batches of a round: those of whole epochs, or the next `steps` of a run that goes through its epochs."""
        if round == 0 or self._steps is None:
            epochs = self._epochs if round > 0 else self._pretrain_epochs
            return [batch for epoch in range(epochs) for batch in self._batches(round, epoch)]
        found: list[Int[Tensor, " b"]] = []
        while len(found) < self._steps:
            epoch, place = divmod((round - 1) * self._steps + len(found), self._steps_of_an_epoch)
            if self._shuffled[0] != epoch:
                self._shuffled = epoch, self._batches(1, epoch)
            found += self._shuffled[1][place : place + self._steps - len(found)]
        return found

    def _shift(self, drift: State, steps: int) -> Callable[[], None]:
        """What moves the parameters that `drift` names by one of `steps` equal parts of it."""
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad and name in drift]
        parameters: list[Tensor] = [self.model.get_parameter(name) for name in names]
        parts = [drift[name].to(self.device) for name in names]

        def move() -> None:
            if parts:
                with torch.no_grad():
                    torch._foreach_add_(parameters, parts, alpha=1 / steps)

        return move

    def _batches(self, round: int, epoch: int) -> list[Int[Tensor, " b"]]:
        generator = torch.Generator().manual_seed(self.shuffle_seed(round, epoch))
        order = torch.randperm(self.samples, generator=generator).to(self.device)
        batches = list(torch.split(order, self._batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm has no variance to take of one image
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _new_optimiser(self) -> Optimiser:
        parameters = dict(self.model.named_parameters())
        optimiser = build_optimiser(
            self._optimizer,
            parameters,
            learning_rate=self._learning_rate,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
        )
        return ScaledOptimiser(optimiser, parameters) if self._precision == "float16" else optimiser

    def _normalised(self, pixels: Tensor) -> NormalisedImages:
        return NormalisedImages(pixels.to(self.device), self._dataset.mean, self._dataset.std, self._layout)


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
