"""What an algorithm sees of a peer's model: train it, read it, replace it, evaluate it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

State = Mapping[str, Tensor]
"""A model's parameters and buffers by their names in `state_dict()`."""

Stop = Callable[[], bool]
"""Asked between batches, on the thread that trains: whether training is for nothing and is to end here."""


def never() -> bool:
    """Train to the end."""
    return False


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """One call of `train`: mean loss over the samples seen, how many there were, in how many optimiser steps."""

    loss: float
    samples: int
    steps: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """On the common test set: mean cross-entropy and the share of images classified right.

    None where there is no such thing: an expert classifies nothing, and may hold no test image of its own.
    """

    loss: float | None
    accuracy: float | None
    samples: int


class Learner(Protocol):
    """A model with its data. Blocking: call it through `Clock.work`."""

    samples: int
    """Training images that this peer holds."""

    def class_counts(self) -> list[int]:
        """How many of them there are of each class."""
        ...

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        """Local training of one round; round 0 is pre-training. Random choices depend on (seed, peer, round) alone.

        `drift` is added to the parameters that it names, in equal parts, one after each optimiser step. Training ends
        early once `stop` says so; what the model is then is nobody's concern, as another one is loaded before it is
        used.
        """
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The model's state, on the CPU, as copies that later training does not change."""
        ...

    def view(self) -> dict[str, Tensor]:
        """The same without a copy where the model is on the CPU: good until the next call of `train` or `load`."""
        ...

    def load(self, parameters: State) -> None:
        """Replaces the model's state. Raises ValueError naming the first tensor whose name, shape or dtype differs."""
        ...

    def evaluate(self) -> Evaluation: ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the next round's training needs beside the parameters; empty where every round starts afresh."""
        ...

    def load_optimizer(self, state: State) -> None: ...


class ModuleLearner(Learner, Protocol):
    """A learner whose model is a torch module that can be matched and merged."""

    model: nn.Module
    matching_samples: int
    """Images that matching and BatchNorm re-estimation look at."""

    def matching_batches(self) -> Iterable[Tensor]:
        """The peer's own images for activation matching and BatchNorm re-estimation, the same at every call."""
        ...
