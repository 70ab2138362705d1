"""Who holds what in an ensemble: disjoint clusters for the experts, all of them with their names for the router."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from decentral.data.datasets import load_dataset
from decentral.data.partition import subset
from decentral.errors import UserError
from decentral.launch.shares import assign, holding
from decentral.run.recipe import load_recipe


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def held(digits, *settings: str):
    recipe = load_recipe("diffusion-digits", settings)
    chosen = subset(digits.train_labels, recipe.data.subset, recipe.seed)
    return [holding(recipe, digits, chosen, index) for index in range(recipe.peers)]


@pytest.mark.parametrize("partition", ["clusters", "{name: clusters, random: true}", "by-class", "iid"])
def test_experts_have_disjoint_shares_and_the_router_knows_them(digits, partition: str):
    *experts, router = held(digits, f"data.partition={partition}")
    numbers = np.concatenate([one.share for one in experts])
    assert np.array_equal(np.sort(numbers), np.arange(1442)) and np.array_equal(router.share, np.arange(1442))
    for cluster, one in enumerate(experts):
        assert (router.clusters[one.share] == cluster).all() and one.clusters is None
    digests = {one.assignment.digest for one in [*experts, router]}
    assert len(digests) == 1 and len(set(router.assignment.digests)) == 4
    assert set(np.unique(router.assignment.test)) == {0, 1, 2, 3} and len(router.assignment.test) == 355


def test_images_that_are_alike_are_together(digits):
    def mixed(*settings: str) -> float:
        """Share of an expert's images that are not of its most frequent four classes, on average."""
        counts = [
            np.sort(np.bincount(digits.train_labels[one.share], minlength=10)) for one in held(digits, *settings)[:-1]
        ]
        return float(np.mean([count[:6].sum() / count.sum() for count in counts]))

    assert mixed() < 0.2 < mixed("data.partition.random=true")


def test_a_subset_is_shared_out_by_its_own_numbers(digits):
    *experts, router = held(digits, "data.subset=400")
    chosen = subset(digits.train_labels, 400, 0)
    assert np.array_equal(np.sort(np.concatenate([one.share for one in experts])), chosen)
    assert np.array_equal(router.share, chosen)


def test_the_router_may_have_less(digits):
    router = held(digits, "learner.router={name: unet, share: 0.5}")[-1]
    assert len(router.share) == pytest.approx(721, abs=4)
    with pytest.raises(UserError, match=r"learner\.router\.share"):
        held(digits, "learner.router={name: unet, share: 2}")


def test_an_assignment_can_be_kept_and_read(digits, tmp_path):
    recipe = load_recipe("diffusion-digits")
    made = assign(recipe, digits, np.arange(1442))
    made.save(tmp_path / "assignment.json")
    setting = f"data.partition={{name: clusters, file: {tmp_path / 'assignment.json'}}}"
    assert held(digits, setting)[0].assignment.digest == made.digest
    assert np.array_equal(held(digits, setting)[2].share, made.shares[2])


def test_an_assignment_of_other_images_is_refused_by_the_peer_that_would_train_on_them(digits, tmp_path):
    made = assign(load_recipe("diffusion-digits"), digits, np.arange(1442))
    made = dataclasses.replace(made, digests=("0" * 64, *made.digests[1:]))
    made.save(tmp_path / "assignment.json")
    with pytest.raises(UserError, match="cluster 0 was made from other images"):
        held(digits, f"data.partition={{name: clusters, file: {tmp_path / 'assignment.json'}}}")


def test_other_algorithms_may_share_out_clusters_too(digits):
    recipe = load_recipe("dimat-digits", ["data.partition=clusters"])
    shares = [holding(recipe, digits, np.arange(1442), index) for index in range(5)]
    assert np.array_equal(np.sort(np.concatenate([one.share for one in shares])), np.arange(1442))
    assert all(one.assignment is None for one in shares)


def test_in_split_learning_the_client_has_every_image_and_the_server_none(digits):
    recipe = load_recipe("split-digits", ["data.subset=100"])
    chosen = subset(digits.train_labels, recipe.data.subset, recipe.seed)
    client, server = (holding(recipe, digits, chosen, index).share for index in range(2))
    assert np.array_equal(client, chosen) and len(server) == 0
