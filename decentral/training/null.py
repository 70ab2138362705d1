"""A learner that learns nothing: for studies of the protocol alone, with thousands of peers.

SIMULATED: training takes the time that the recipe models and computes nothing, so there is no accuracy to report; a
model of `model_bytes` bytes is counted, and takes its time on the simulated links, without being allocated.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from decentral.errors import UserError
from decentral.training.learner import Evaluation, State, Stop, TrainingReport, never

NAME = "rounds"


class NullLearner:
    """Its state is one number: the rounds of training that are in the model, on average over those who gave to it.

    `samples` is how many training images it says to hold, which weights and modelled time follow from.
    """

    without_data: ClassVar[bool] = True
    """Made from the peer's index and the seed alone; nothing of it is worth a file."""

    def __init__(self, peer: int, seed: int, *, samples: int = 500, model_bytes: int = 0) -> None:
        """Raises UserError for a number that cannot be."""
        if samples < 1 or model_bytes < 0:
            raise UserError(
                f"the null learner holds at least one sample and no fewer than zero bytes, not {samples}, {model_bytes}"
            )
        self.samples = samples
        self.padding = model_bytes
        """Bytes of a model that exist in the accounts of the simulated network alone."""
        self._rounds = torch.zeros(1)

    def class_counts(self) -> list[int]:
        return [self.samples]

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        if stop():
            return TrainingReport(loss=math.nan, samples=0, steps=0)
        self._rounds = self._rounds + 1.0 + (drift or {}).get(NAME, 0.0)
        return TrainingReport(loss=math.nan, samples=self.samples, steps=0)

    def parameters(self) -> dict[str, Tensor]:
        return {NAME: self._rounds.clone()}

    def view(self) -> dict[str, Tensor]:
        return {NAME: self._rounds}

    def load(self, parameters: State) -> None:
        """Raises ValueError for another model's state."""
        if parameters.keys() != {NAME} or parameters[NAME].shape != self._rounds.shape:
            raise ValueError(f"the null learner's state is one number called {NAME!r}, not {sorted(parameters)}")
        self._rounds = parameters[NAME].clone()

    def evaluate(self) -> Evaluation:
        """Not a number, of no samples: nothing was learnt."""
        return Evaluation(loss=math.nan, accuracy=math.nan, samples=0)

    def optimizer_state(self) -> dict[str, Tensor]:
        return {}

    def load_optimizer(self, state: State) -> None:
        """Raises ValueError: there is none."""
        if state:
            raise ValueError("the null learner has no optimiser")
