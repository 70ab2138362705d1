"""Who runs and how they are connected follows from the recipe alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.launch.plan import make_plan
from decentral.run.recipe import Choice, Recipe


@given(peers=st.integers(1, 24), name=st.sampled_from(["ring", "full", "star", "exponential"]))
def test_rows_sum_to_one_and_reach_neighbours_alone(peers, name):
    plan = make_plan(Recipe(peers=peers, topology=Choice(name=name)))
    assert [peer.index for peer in plan.peers] == list(range(peers))
    for peer in plan.peers:
        assert math.isclose(math.fsum(peer.weights.values()), 1.0)
        assert set(peer.weights) <= {peer.index, *peer.neighbours}
        assert all(peer.index in plan.peers[other].neighbours for other in peer.neighbours)


def test_as_many_checkpoints_are_kept_as_peers_can_drift_apart():
    assert make_plan(Recipe(peers=8)).kept_checkpoints == 4 + 1
    assert make_plan(Recipe(peers=8, topology=Choice(name="full"))).kept_checkpoints == 1 + 1


def test_an_impossible_topology_is_refused():
    with pytest.raises(UserError, match="6"):
        make_plan(Recipe(peers=5, topology=Choice(name="regular", options={"degree": 6})))
