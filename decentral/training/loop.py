"""Local training: rounds of optimiser steps over shuffled epochs, whatever the loss.

Every random choice is drawn from (seed, peer, round), so a round's result depends on the state at its beginning alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages
from decentral.errors import DecentralError, UserError
from decentral.models.graphs import saved_state
from decentral.training.images import NormalisedImages, augment
from decentral.training.learner import Evaluation, State, Stop, TrainingReport, never
from decentral.training.optimiser import Optimiser, build_optimiser
from decentral.training.precision import ScaledOptimiser, arithmetic

Course = Generator[tuple[Tensor, Tensor, float], Tensor, TrainingReport]
"""See `LocalTraining.course`."""


class Settings(TypedDict, total=False):
    """What every learner is told by its peer: where it is, and the recipe's `training`."""

    peer: int
    seed: int
    epochs: int
    steps: int | None
    pretrain_epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    learning_rate_decay: float
    momentum: float
    weight_decay: float
    fresh_optimizer: bool
    augment: bool
    precision: str
    channels_last: bool
    device: str


class Trainable:
    """A network on its device with its optimiser: their state in and out, as a `Learner` has it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        learning_rate_decay: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        precision: str = "float32",
        channels_last: bool = False,
        device: str = "cpu",
    ) -> None:
        """Raises UserError for a device that is not there."""
        self.device = choose_device(device)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device).to(memory_format=self._layout)
        self._optimizer, self._precision = optimizer, precision
        self._learning_rate, self._momentum, self._weight_decay = learning_rate, momentum, weight_decay
        self._decay = learning_rate_decay
        self._optimiser = self._new_optimiser()

    def tensors(self) -> dict[str, Tensor]:
        """The model's own, where they are and by the names that they are sent and saved under."""
        return saved_state(self.model)

    def parameters(self) -> dict[str, Tensor]:
        return {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for name, tensor in self.tensors().items()
        }

    def view(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def load(self, parameters: State) -> None:
        own = self.tensors()
        check_schema(own, parameters)
        for name, tensor in own.items():
            tensor.copy_(parameters[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep beside the parameters; empty where each round starts with a fresh optimiser."""
        return self._optimiser.state()

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError where the state belongs to another model or optimiser."""
        self._optimiser.restore(state)

    def _slow_down(self, round: int) -> None:
        """Round 1 has the learning rate as it is, round r that times decay^(r - 1)."""
        self._optimiser.learning_rate = self._learning_rate * self._decay ** max(round - 1, 0)

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


class LocalTraining(Trainable, ABC):
    """Trains `model` on the images `share` of `dataset` (indices of training images); subclasses say by which loss.

    With `steps` a round is as many optimiser steps, and the next round goes on in the epoch where it ended; else it is
    `epochs` whole ones. Each step's batch is computed in `accumulate` parts, which need less memory. `precision` is
    that of a training step's arithmetic. `mean` and `std` are those of each channel, in units of a pixel's value; None:
    the dataset's.
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
        accumulate: int = 1,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        learning_rate_decay: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        fresh_optimizer: bool = True,
        augment: bool = False,
        precision: str = "float32",
        channels_last: bool = False,
        device: str = "cpu",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        if len(share) == 0:
            raise UserError(f"peer {peer} has no training image")
        super().__init__(
            model,
            optimizer=optimizer,
            learning_rate=learning_rate,
            learning_rate_decay=learning_rate_decay,
            momentum=momentum,
            weight_decay=weight_decay,
            precision=precision,
            channels_last=channels_last,
            device=device,
        )
        self.samples = len(share)
        self.peer, self.seed = peer, seed
        self._epochs, self._pretrain_epochs, self._batch_size = epochs, pretrain_epochs, batch_size
        self._accumulate, self._fresh = accumulate, fresh_optimizer
        self._augment = augment
        self._dataset = dataset
        self._mean, self._std = mean or dataset.mean, std or dataset.std
        self._images = self._normalised(torch.from_numpy(dataset.train_images(share)))
        self._labels = torch.from_numpy(dataset.train_labels[share]).to(self.device)
        self._steps, self._steps_of_an_epoch = steps, len(self._batches(1, 0))
        self._shuffled: tuple[int, list[Int[Tensor, " b"]]] = (-1, [])

    @abstractmethod
    def loss(self, images: Float[Tensor, "b c h w"], batch: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Mean loss of some of the peer's images; `batch` are their places in its share.

        What it draws comes from torch's random state, which is set at the beginning of each round.
        """

    @abstractmethod
    def evaluate(self) -> Evaluation: ...

    def stepped(self) -> None:
        """Called after each optimiser step."""

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        """Raises DecentralError where the loss is no longer finite: the learning rate is too high, or data wrong."""
        course = self.course(round, drift, stop)
        try:
            images, places, share = next(course)
            while True:
                with arithmetic(self._precision, self.device):
                    loss = self.loss(images, places)
                self._optimiser.backward(loss * share)
                images, places, share = course.send(loss.detach())
        except StopIteration as ended:
            report: TrainingReport = ended.value
            return report

    def course(self, round: int, drift: State | None = None, stop: Stop = never) -> Course:
        """A round of training but for the gradients: gives what the next ones are of, and is sent the mean loss of it.

        Gives images, their places in the peer's share, and the share that they are of their optimiser step.
        """
        torch.manual_seed(derive_seed(self.seed, "train", self.peer, round))  # dropout draws from the global generator
        crops = torch.Generator().manual_seed(derive_seed(self.seed, "augment", self.peer, round))
        if self._fresh:
            self._optimiser = self._new_optimiser()
        self._slow_down(round)
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        seen = steps = 0
        batches = self._round(round)
        shift = self._shift(drift or {}, len(batches))
        for batch in batches:
            if stop():
                break
            for part in batch.chunk(self._accumulate):
                images = augment(self._images[part], crops) if self._augment else self._images[part]
                loss = yield images, part, len(part) / len(batch)
                total += loss * len(part)  # stays on the device: reading it would wait for every step
            self._optimiser.step()
            shift()
            self.stepped()
            seen += len(batch)
            steps += 1
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

    def _normalised(self, pixels: Tensor) -> NormalisedImages:
        return NormalisedImages(pixels.to(self.device), self._mean, self._std, self._layout)


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
