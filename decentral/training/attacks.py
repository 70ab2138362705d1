"""A learner that was told by the recipe to attack: what it trains on, and what it would have others believe.

A simulation of a liar. The peer around it is an honest one; `wire.lying` puts the lie into its messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decentral.core.attacks import Attack
from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages, Labels, Pixels
from decentral.training.learner import Evaluation, Learner, State, Stop, TrainingReport, never


class PoisonedImages(LabelledImages):
    """A dataset whose training labels are those that an attacker learns. Test labels stay true."""

    def __init__(self, true: LabelledImages, attack: Attack) -> None:
        self.class_names, self.image_shape = true.class_names, true.image_shape
        self.mean, self.std, self.white = true.mean, true.std, true.white
        self._true = true
        self._labels = attack.labels(true.train_labels, true.classes)

    @property
    def train_labels(self) -> Labels:
        return self._labels

    @property
    def test_labels(self) -> Labels:
        return self._true.test_labels

    def train_images(self, indices: Indices) -> Pixels:
        return self._true.train_images(indices)

    def test_images(self) -> Pixels:
        return self._true.test_images()


class AttackingLearner:
    """`inner`, and after each round from `from_round` on the `lie` that goes out in place of its model.

    The attacker itself goes on with `inner`, so that it stays near enough to the honest to do harm. What it has heard
    is not part of a checkpoint: one that listens is honest in the first round after a restart.
    """

    def __init__(self, inner: Learner, attack: Attack, *, peer: int, seed: int, from_round: int = 1) -> None:
        self.inner, self.attack = inner, attack
        self.samples = inner.samples
        self.lie: dict[str, Tensor] | None = None
        self._peer, self._seed, self._from_round = peer, seed, from_round
        self._heard: dict[int, dict[int, State]] = {}

    def hear(self, sender: int, round: int, state: State) -> None:
        """A model that an honest peer sent for `round`."""
        self._heard.setdefault(round, {})[sender] = state

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        self.lie = None
        if round < self._from_round:
            return self.inner.train(round, drift, stop)
        start = self.inner.parameters()
        idle = TrainingReport(loss=0.0, samples=0, steps=0)
        report = self.inner.train(round, drift, stop) if self.attack.trains else idle
        if stop():
            return report  # nobody will be told of this round
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "attack", self._peer, round))
        self.lie = self.attack.model(start, self.inner.parameters(), self._last_heard(round), generator)
        return report

    def _last_heard(self, round: int) -> list[State]:
        """The models of the last round before this one in which there were any, by sender; older ones are dropped."""
        past = [earlier for earlier in sorted(self._heard) if earlier < round]
        for older in past[:-1]:
            del self._heard[older]
        return [state for _, state in sorted(self._heard[past[-1]].items())] if past else []

    def class_counts(self) -> list[int]:
        return self.inner.class_counts()

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()

    def view(self) -> dict[str, Tensor]:
        return self.inner.view()

    def load(self, parameters: State) -> None:
        self.inner.load(parameters)

    def evaluate(self) -> Evaluation:
        return self.inner.evaluate()

    def optimizer_state(self) -> dict[str, Tensor]:
        return self.inner.optimizer_state()

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        self.inner.load_optimizer(state)

    def __getattr__(self, name: str) -> Any:
        """What only some learners have: the module and the images that merging needs."""
        if name == "inner":  # not there yet while it is being copied
            raise AttributeError(name)
        return getattr(self.inner, name)
