"""An attacking learner: honest in itself, and a lie beside it from the round on that the recipe names."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from decentral.core.attacks import ATTACKS
from decentral.data.datasets import ArrayImages
from decentral.training.attacks import AttackingLearner, PoisonedImages
from decentral.training.classifier import ClassifierLearner

LABELS = np.arange(24) % 3
IMAGES = ArrayImages(
    np.random.default_rng(0).integers(0, 16, (24, 1, 2, 2)).astype(np.uint8),
    LABELS, np.zeros((3, 1, 2, 2), np.uint8), np.arange(3), ("a", "b", "c"), (8.0,), (4.0,),
)  # fmt: skip


def honest() -> ClassifierLearner:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return ClassifierLearner(network, IMAGES, np.arange(24), peer=1, seed=5, epochs=2, batch_size=8)


def attacking(name: str, *, from_round: int = 1, **options: float) -> AttackingLearner:
    return AttackingLearner(honest(), ATTACKS.construct(name, **options), peer=1, seed=5, from_round=from_round)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("name", ["sign-flip", "gaussian", "alie"])
def test_the_attackers_own_model_is_the_honest_one(name: str) -> None:
    liar, plain = attacking(name), honest()
    for round in (1, 2):
        assert liar.train(round) == plain.train(round)
        assert same(liar.parameters(), plain.parameters()) and same(liar.view(), plain.view())
    assert liar.evaluate() == plain.evaluate()


def test_a_sign_flip_is_told_relative_to_the_model_at_the_rounds_start() -> None:
    liar = attacking("sign-flip", scale=2.0)
    start = liar.parameters()
    liar.train(1)
    assert liar.lie is not None
    for name, tensor in liar.parameters().items():
        torch.testing.assert_close(liar.lie[name], start[name] - 2.0 * (tensor - start[name]))


def test_before_its_round_an_attacker_says_what_it_has() -> None:
    liar = attacking("gaussian", from_round=3)
    told = []
    for round in (0, 1, 2, 3):
        liar.train(round)
        told.append(liar.lie)
    assert told[:3] == [None] * 3
    assert told[3] is not None


def test_a_lie_depends_on_seed_peer_and_round_alone() -> None:
    first, second = attacking("gaussian"), attacking("gaussian")
    lies = []
    for liar in (first, second):
        for round in (1, 2):
            liar.train(round)
            lies.append(liar.lie)
    assert same(lies[0], lies[2]) and same(lies[1], lies[3])
    assert not same(lies[0], lies[1])


def test_a_free_rider_does_not_train() -> None:
    rider = attacking("free-rider", noise=0.001)
    start = rider.parameters()
    report = rider.train(1)
    assert (report.samples, report.steps) == (0, 0)
    assert same(rider.parameters(), start)
    assert rider.lie is not None
    apart = torch.cat([(rider.lie[name] - start[name]).flatten() for name in start])
    assert 0 < apart.abs().max() < 0.01


def test_what_is_heard_counts_from_the_next_round_on() -> None:
    liar, plain = attacking("alie", deviations=2.0), honest()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in liar.parameters().items()}
    for sender, value in ((4, 1.0), (2, 3.0)):
        liar.hear(sender, 1, {name: tensor + value for name, tensor in zeros.items()})
    liar.hear(4, 2, {name: tensor + 100 for name, tensor in zeros.items()})  # one that ran ahead
    liar.train(1)
    plain.train(1)
    assert same(liar.lie, plain.parameters()), "nothing was heard before round 1"
    liar.train(2)
    plain.train(2)
    for name, tensor in plain.parameters().items():
        torch.testing.assert_close(liar.lie[name], tensor - 2.0 * 1.0)


def test_flipped_labels_are_learnt_and_true_ones_tested() -> None:
    poisoned = PoisonedImages(IMAGES, ATTACKS.construct("label-flip"))
    assert poisoned.train_labels.tolist() == (2 - LABELS).tolist()
    assert poisoned.test_labels.tolist() == [0, 1, 2]
    assert (poisoned.classes, poisoned.image_shape) == (3, (1, 2, 2))
    chosen = np.array([5, 1])
    assert np.array_equal(poisoned.train_images(chosen), IMAGES.train_images(chosen))
    assert np.array_equal(poisoned.test_images(), IMAGES.test_images())


def test_what_merging_needs_is_that_of_the_learner_inside() -> None:
    liar = attacking("sign-flip")
    assert isinstance(liar.model, nn.Module)
    assert liar.matching_samples == 24 and len(liar.matching_batches()) == 1
    assert liar.class_counts() == [8, 8, 8]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = liar.nonsense
    assert copy.deepcopy(liar).samples == 24


def test_a_restarted_attacker_goes_on_as_one_that_never_stopped() -> None:
    whole, before, after = attacking("sign-flip"), attacking("sign-flip"), attacking("sign-flip")
    for round in (1, 2):
        whole.train(round)
    before.train(1)
    after.load(before.parameters())
    after.load_optimizer(before.optimizer_state())
    after.train(2)
    assert same(whole.lie, after.lie)


def test_who_stops_training_has_no_lie_of_that_round() -> None:
    liar = attacking("sign-flip")
    liar.train(1)
    assert liar.lie is not None
    assert liar.train(2, stop=lambda: True).steps == 0 and liar.lie is None
    early = attacking("sign-flip", from_round=3)
    assert early.train(1, stop=lambda: True).steps == 0 and early.lie is None
