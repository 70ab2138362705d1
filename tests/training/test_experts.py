"""One name for all learners of an ensemble: an expert for a share, a router for clusters, a monolith for neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decentral.data.clusters import Assignment
from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.models.experts import outputs
from decentral.training.diffusion import DiffusionLearner
from decentral.training.experts import diffusion
from decentral.training.router import RouterLearner, head

SMALL = {"channels": [8, 16]}
SETTINGS = {"peer": 1, "seed": 0, "batch_size": 16, "steps": 1, "optimizer": "adamw", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def assignment(digits) -> Assignment:
    shares = [np.arange(k, 90, 3) for k in range(3)]
    return Assignment.make(digits, np.arange(90), shares, np.arange(355) % 3)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("unet", (1, 8, 8), 10, **SMALL)


def router(digits, assignment, options=None, **more) -> RouterLearner:
    numbers, clusters = assignment.some(1.0, 0)
    given = {"assignment": assignment, "clusters": clusters, "router": {**SMALL, **(options or {})}}
    learner = diffusion(model(), digits, numbers, **given, **{**SETTINGS, "peer": 3, **more})
    assert isinstance(learner, RouterLearner)
    return learner


def test_an_expert_is_evaluated_on_test_images_of_its_cluster(digits, assignment):
    learner = diffusion(model(), digits, assignment.shares[1], assignment=assignment, **SETTINGS)
    assert type(learner) is DiffusionLearner and learner.assignment is assignment
    assert (learner._test_numbers % 3 == 1).all() and len(learner._test_numbers) == 118


def test_without_an_assignment_it_is_the_monolith(digits):
    learner = diffusion(model(), digits, np.arange(90), **SETTINGS)
    assert learner.assignment is None and len(learner._test_numbers) == 355


def test_the_routers_peer_trains_another_network_with_its_own_options(digits, assignment):
    learner = router(digits, assignment, {"steps": 2, "calibration": 0.2})
    assert outputs(learner.model) == 3 and learner.samples == 72 and learner.assignment is assignment
    assert learner.train(1).steps == 2
    assert outputs(learner.expert) == 1


def test_every_peer_with_the_seed_starts_from_the_same_router(digits, assignment):
    one, other = router(digits, assignment), router(digits, assignment, peer=7)
    assert all(torch.equal(tensor, other.view()[name]) for name, tensor in one.view().items())


def test_a_router_starts_from_an_earlier_one_with_its_head_alone(digits, assignment, tmp_path):
    earlier = build_model("unet", (1, 8, 8), 10, outputs=2, **SMALL)
    earlier.save_pretrained(tmp_path / "router")
    options = {"start_from": str(tmp_path / "router"), "head_alone": True}
    learner = router(digits, assignment, options)
    moving = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    assert outputs(learner.model) == 3 and moving == head(learner.model)
    assert torch.equal(learner.view()["conv_out.bias"][:2], earlier.state_dict()["conv_out.bias"])
    swapped = router(digits, assignment, {"start_from": str(tmp_path / "router"), "kept": [1, None, 0]})
    assert torch.equal(swapped.view()["conv_out.bias"][[2, 0]], earlier.state_dict()["conv_out.bias"])
    with pytest.raises(UserError, match=r"learner\.router\.kept: \[2\] cannot be: 2 clusters became 3"):
        router(digits, assignment, {"start_from": str(tmp_path / "router"), "kept": [2]})


def test_a_classifier_is_no_expert(digits):
    with pytest.raises(UserError, match="trains the models unet and dit, not a Sequential"):
        diffusion(torch.nn.Sequential(torch.nn.Linear(64, 10)), digits, np.arange(9), **SETTINGS)


def test_an_option_that_a_router_does_not_have_is_named(digits, assignment):
    with pytest.raises(UserError, match="chanels"):
        router(digits, assignment, {"chanels": [8]})
