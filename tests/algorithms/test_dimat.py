"""DIMAT on real networks: neighbours in another basis are brought home before they are averaged."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from decentral.algorithms.dimat import DIMAT
from decentral.algorithms.dpsgd import DPSGD
from decentral.core.permutation import random_permutation
from decentral.models.catalogue import build_model
from decentral.models.tracing import permutation_spec
from decentral.training.learner import Evaluation, TrainingReport
from decentral.training.merging import permute


class Frozen:
    """A learner that never trains: its model is a given network in an order of units of its own."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.samples = self.matching_samples = len(images)

    def train(self, round: int) -> TrainingReport:
        return TrainingReport(loss=0.0, samples=0, steps=0)

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def view(self) -> dict[str, Tensor]:
        return self.parameters()

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(dict(parameters))

    def evaluate(self) -> Evaluation:
        return Evaluation(loss=0.0, accuracy=0.0, samples=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        return {}

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        assert not state

    def class_counts(self) -> list[int]:
        return [self.samples]

    def matching_batches(self) -> list[Tensor]:
        return [self.images]


def shuffled_copies(count: int) -> tuple[nn.Module, list[nn.Module], Tensor]:
    torch.manual_seed(3)
    model = build_model("mlp", (1, 8, 8), 10, hidden=[24, 16]).eval()
    images = torch.randn(64, 1, 8, 8)
    spec = permutation_spec(model, images)
    generator = torch.Generator().manual_seed(5)
    copies = [permute(model, spec, random_permutation(spec, generator)) for _ in range(count - 1)]
    return model, [copy.deepcopy(model), *copies], images


@pytest.fixture
def frozen_world(world):
    def play(algorithm):
        model, copies, images = shuffled_copies(4)
        stage = world(4, algorithm, topology_name="full", rounds=1)
        stage.learners = [Frozen(network, images) for network in copies]
        return model, images, stage.play()

    return play


def test_merging_copies_in_another_order_changes_no_peer_and_moves_most_units(frozen_world):
    model, images, played = frozen_world(DIMAT)
    for learner in played.learners:
        assert torch.allclose(learner.model(images), model(images), atol=1e-4)
    merged = [journal.of("merged")[0] for journal in played.journals.values()]
    assert all(event["moved"] > 0.5 for event in merged)
    assert all(sum(event["weights"].values()) == pytest.approx(1.0) for event in merged)


def test_averaging_the_same_copies_without_alignment_destroys_the_function(frozen_world):
    model, images, played = frozen_world(DPSGD)
    assert not torch.allclose(played.learners[0].model(images), model(images), atol=0.1)


def test_a_peer_without_neighbours_keeps_its_model(world):
    model, [own, *_], images = shuffled_copies(1)
    stage = world(1, DIMAT, rounds=1)
    stage.learners = [Frozen(own, images)]
    stage.play()
    assert torch.equal(own(images), model(images))
    assert stage.journals[0].of("merged")[0]["moved"] is None
