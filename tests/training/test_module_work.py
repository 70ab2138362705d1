"""Work on a learner's network: what merging, repairing and re-estimating it would do by hand."""

from __future__ import annotations

import pytest
import torch

from decentral.launch.assembly import assemble_learner
from decentral.models.tracing import permutation_spec
from decentral.run.recipe import load_recipe
from decentral.training.attacks import AttackingLearner
from decentral.training.batchnorm import reestimate_batchnorm
from decentral.training.learner import Learner
from decentral.training.merging import merge_into
from decentral.training.module_work import LocalModuleWork, buffers_of, module_work
from decentral.training.null import NullLearner

NORMALISED = "model={name: mlp, hidden: [16], batch_norm: true}"


def learner(index: int, *overrides: str) -> Learner:
    small = ("peers=3", "model={name: mlp, hidden: [16]}", "data.subset=300", "training.initialisation=separate")
    return assemble_learner(load_recipe("dimat-digits", (*small, *overrides)), index)


def same(one: Learner, other: Learner) -> bool:
    states = one.parameters(), other.parameters()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("overrides", [(), (NORMALISED,)], ids=["plain", "normalised"])
def test_a_merge_is_that_of_the_learners_model_on_its_own_images(overrides):
    by_hand, asked = (learner(0, *overrides) for _ in range(2))
    others, weights = [learner(index, *overrides).parameters() for index in (1, 2)], [0.5, 0.25, 0.25]
    batches = list(by_hand.matching_batches())
    permutations = merge_into(by_hand.model, others, weights, permutation_spec(by_hand.model, batches[0][:2]), batches)
    moved = module_work(asked).merge(others, weights, method="activation", statistics="reestimate", repair=False)
    assert same(by_hand, asked)
    assert moved == pytest.approx(sum(permutation.share_moved for permutation in permutations) / 2)


def test_a_merge_with_nobody_changes_nothing():
    alone, untouched = learner(0), learner(0)
    assert module_work(alone).merge([], [1.0], method="activation", statistics="reestimate", repair=False) is None
    assert same(alone, untouched)


def test_statistics_are_those_of_the_learners_images():
    by_hand, asked = (learner(0, NORMALISED) for _ in range(2))
    reestimate_batchnorm(by_hand.model, by_hand.matching_batches())
    module_work(asked).reestimate()
    assert same(by_hand, asked) and not same(asked, learner(0, NORMALISED))


def test_what_is_repaired_depends_on_the_network():
    assert module_work(learner(0)).repairs("auto") and not module_work(learner(0, NORMALISED)).repairs("auto")
    with pytest.raises(ValueError, match="BatchNorm"):
        module_work(learner(0, NORMALISED)).repairs(True)


def test_a_liars_network_is_that_of_the_learner_inside():
    liar = learner(1, "attack={name: sign-flip, peers: [1]}")
    assert isinstance(liar, AttackingLearner)
    assert isinstance(module_work(liar), LocalModuleWork) and module_work(liar).samples == liar.matching_samples


def test_a_learner_without_a_network_has_none_to_work_on():
    assert module_work(NullLearner(0, 0)) is None
    assert buffers_of(NullLearner(0, 0)) == frozenset()


def test_buffers_are_what_no_optimiser_changes():
    assert buffers_of(learner(0)) == frozenset()
    normalised = learner(0, NORMALISED)
    trained = {name for name, _ in normalised.model.named_parameters()}
    assert buffers_of(normalised) == normalised.parameters().keys() - trained != frozenset()


def test_work_that_is_done_elsewhere_is_asked_for_there():
    class Elsewhere(NullLearner):
        module_work = LocalModuleWork(learner(0))
        buffers = frozenset({"mean"})

    assert module_work(Elsewhere(0, 0)) is Elsewhere.module_work
    assert buffers_of(Elsewhere(0, 0)) == {"mean"}
