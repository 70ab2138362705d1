"""Graphs over the peers and their mixing matrices."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.topology import (
    MEASURED,
    TOPOLOGIES,
    build,
    diameter,
    exponential_hop,
    metropolis_hastings,
    mixing_row,
    parse_edges,
    random_matching,
    random_receivers,
    spectral_gap,
)
from decentral.errors import UserError

PLAIN = ("ring", "full", "star", "torus", "exponential")
names = st.sampled_from(PLAIN)
sizes = st.integers(1, 24)


@given(names, sizes)
def test_every_topology_is_one_connected_graph_over_all_peers(name: str, peers: int) -> None:
    graph = build(name, peers)
    assert sorted(graph.nodes) == list(range(peers))
    assert nx.is_connected(graph)
    assert nx.number_of_selfloops(graph) == 0


@given(st.integers(0, 5), st.integers(1, 20), st.floats(0.3, 1.0))
def test_a_random_graph_is_the_same_for_the_same_seed(seed: int, peers: int, probability: float) -> None:
    first, again = (build("erdos-renyi", peers, seed, probability=probability) for _ in range(2))
    assert list(first.edges) == list(again.edges)


def test_another_seed_draws_another_graph() -> None:
    drawn = {tuple(build("regular", 12, seed, degree=3).edges) for seed in range(5)}
    assert len(drawn) > 1


@given(names, sizes)
def test_mixing_rows_and_columns_sum_to_one(name: str, peers: int) -> None:
    weights = metropolis_hastings(build(name, peers))
    assert np.allclose(weights.sum(axis=0), 1, atol=1e-12)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-12)
    assert np.array_equal(weights, weights.T)
    assert weights.min() >= 0


@given(st.integers(4, 16).filter(lambda n: n % 2 == 0), st.integers(0, 9))
def test_mixing_a_random_graph_keeps_the_mean(peers: int, seed: int) -> None:
    weights = metropolis_hastings(build("regular", peers, seed, degree=3))
    values = np.random.default_rng(seed).normal(size=peers)
    assert np.isclose((weights @ values).mean(), values.mean())


def test_weights_are_zero_exactly_where_no_edge_is() -> None:
    graph = build("star", 5)
    weights = metropolis_hastings(graph)
    for i in range(5):
        for j in range(5):
            assert i == j or (weights[i, j] > 0) == graph.has_edge(i, j)


def test_ring_and_full_graph_have_the_equal_weights_of_the_paper() -> None:
    ring = metropolis_hastings(build("ring", 5))
    assert np.allclose(ring[ring > 0], 1 / 3)
    assert np.allclose(metropolis_hastings(build("full", 5)), 1 / 5)


@pytest.mark.parametrize("name", PLAIN)
def test_one_peer_is_a_topology_and_two_are_one_edge(name: str) -> None:
    alone, pair = build(name, 1), build(name, 2)
    assert alone.number_of_edges() == 0
    assert diameter(alone) == 0
    assert metropolis_hastings(alone).tolist() == [[1.0]]
    assert spectral_gap(metropolis_hastings(alone)) == 1.0
    assert list(pair.edges) == [(0, 1)]


def test_degrees_and_diameters_are_those_of_the_literature() -> None:
    assert dict(build("torus", 12).degree()) == dict.fromkeys(range(12), 4)
    assert build("torus", 7).edges == build("ring", 7).edges
    assert dict(build("exponential", 16).degree()) == dict.fromkeys(range(16), 7)
    assert dict(build("regular", 10, 3, degree=4).degree()) == dict.fromkeys(range(10), 4)
    assert [diameter(build(name, 16)) for name in ("ring", "full", "star", "torus", "exponential")] == [8, 1, 2, 4, 2]
    assert build("regular", 1, degree=0).number_of_nodes() == 1


@pytest.mark.parametrize("name", ["ring", "star", "torus", "exponential", "full"])
@given(peers=st.integers(1, 40))
def test_a_row_alone_is_that_of_the_whole_matrix_to_the_last_bit(name: str, peers: int) -> None:
    graph = build(name, peers)
    whole = metropolis_hastings(graph)
    for peer in range(peers):
        assert mixing_row(graph, peer) == {other: w for other, w in enumerate(whole[peer].tolist()) if w > 0}


def test_a_large_graphs_diameter_is_bounded_and_not_measured() -> None:
    exact = diameter(build("ring", MEASURED))
    assert exact == MEASURED // 2
    bound = diameter(build("ring", MEASURED + 2))
    assert MEASURED // 2 + 1 <= bound <= 2 * (MEASURED // 2 + 1)


def test_spectral_gap_is_one_for_a_full_graph_and_known_for_a_ring() -> None:
    assert spectral_gap(metropolis_hastings(build("full", 6))) == pytest.approx(1.0)
    expected = 1 - (1 + 2 * np.cos(2 * np.pi / 9)) / 3
    assert spectral_gap(metropolis_hastings(build("ring", 9))) == pytest.approx(expected)
    gaps = [spectral_gap(metropolis_hastings(build(name, 16))) for name in ("ring", "torus", "exponential", "full")]
    assert gaps == sorted(gaps)


@given(names, sizes)
def test_mixing_contracts_disagreement_by_the_spectral_gap(name: str, peers: int) -> None:
    weights = metropolis_hastings(build(name, peers))
    values = np.random.default_rng(peers).normal(size=peers)
    before, after = values - values.mean(), weights @ values - values.mean()
    gap = spectral_gap(weights)
    assert 0 < gap <= 1 + 1e-12
    assert np.linalg.norm(after) <= (1 - gap) * np.linalg.norm(before) + 1e-9


@pytest.mark.parametrize(
    ("name", "peers", "options", "complaint"),
    [
        ("ring", 0, {}, "at least one peer"),
        ("ring", -3, {}, "at least one peer"),
        ("rnig", 5, {}, "did you mean 'ring'"),
        ("ring", 5, {"degree": 4}, "does not take degree"),
        ("regular", 5, {}, "needs degree"),
        ("regular", 5, {"degree": 6}, "at least 7 peers"),
        ("regular", 5, {"degree": 3}, "must be even"),
        ("regular", 6, {"degree": 1}, "no connected"),
        ("regular", 6, {"degree": 2.0}, "whole number"),
        ("regular", 6, {"degree": -1}, "whole number"),
        ("regular", 6, {"degree": True}, "whole number"),
        ("erdos-renyi", 6, {"probability": 0}, "no connected"),
        ("erdos-renyi", 6, {"probability": 1.5}, "between 0 and 1"),
        ("erdos-renyi", 6, {"probability": "half"}, "between 0 and 1"),
        ("file", 6, {"path": "/nowhere/edges.txt"}, "/nowhere/edges.txt"),
        ("file", 6, {"path": 7}, "is a string"),
    ],
)
def test_an_impossible_topology_is_refused_with_the_reason(
    name: str, peers: int, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        build(name, peers, **options)


def test_a_file_gives_its_edges(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("# a path over four peers\n0 1\n\n2 1  # either way round\n 2   3\n3 2\n")
    assert list(build("file", 4, path=str(path)).edges) == [(0, 1), (1, 2), (2, 3)]


def test_a_file_whose_graph_falls_apart_is_refused_with_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n2 3\n")
    with pytest.raises(UserError, match=r"not connected.*0 1 \| 2 3"):
        build("file", 4, path=str(path))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("0 1 2", "an edge is two peers' numbers"),
        ("0", "an edge is two peers' numbers"),
        ("a b", "an edge is two peers' numbers"),
        ("-1 2", "an edge is two peers' numbers"),
        ("0 9", "peer 9 is not one of 0 to 3"),
        ("2 2", "cannot be its own neighbour"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(line: str, complaint: str) -> None:
    with pytest.raises(UserError, match=f"edges.txt:2: .*{complaint}"):
        parse_edges(["0 1\n", line], 4, "edges.txt")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        build("file", 4, path=str(path))


def _bare(peers: int, seed: int) -> nx.Graph:
    return nx.path_graph(peers + 1)


def _loop(peers: int, seed: int) -> nx.Graph:
    return nx.Graph([(0, 0), *nx.path_graph(peers).edges])


@pytest.mark.parametrize(("constructor", "complaint"), [(_bare, "exactly the peers"), (_loop, "with itself")])
def test_a_users_own_topology_is_held_to_the_same_rules(
    constructor: object, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOPOLOGIES._entries, "own", constructor)
    with pytest.raises(UserError, match=complaint):
        build("own", 3)


@given(names, st.integers(1, 12), st.integers(0, 2**63 - 1))
def test_a_random_matching_pairs_neighbours_and_leaves_no_two_of_them_alone(name: str, peers: int, seed: int) -> None:
    edges = sorted(build(name, peers).edges)
    partner = random_matching(edges, seed)
    assert all(partner[partner[peer]] == peer != partner[peer] for peer in partner)
    assert all((min(pair), max(pair)) in edges for pair in partner.items())
    assert all(first in partner or second in partner for first, second in edges)
    assert partner == random_matching(edges[::-1], seed)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("peers", [2, 5, 12])
def test_every_edge_has_its_turn(name: str, peers: int) -> None:
    edges = sorted(build(name, peers).edges)
    drawn = [random_matching(edges, seed).items() for seed in range(1000)]
    assert set(edges) <= set().union(*drawn)


@given(st.integers(1, 300))
def test_hops_of_one_period_reach_everybody(peers: int) -> None:
    reached, period = {0}, (peers - 1).bit_length()
    for round in range(1, period + 1):
        hop = exponential_hop(peers, round)
        assert 0 < hop < peers
        reached |= {(peer + hop) % peers for peer in reached}
    assert reached == set(range(peers))
    assert exponential_hop(peers, period + 1) == exponential_hop(peers, 1)


@given(st.integers(1, 30), st.integers(1, 35), st.integers(0, 2**63 - 1), st.booleans())
def test_receivers_are_distinct_others_as_many_as_are_wanted(peers: int, fanout: int, seed: int, regular: bool) -> None:
    receivers = random_receivers(peers, fanout, seed, regular)
    assert len(receivers) == peers
    for sender, chosen in enumerate(receivers):
        assert len(set(chosen)) == len(chosen) == min(fanout, peers - 1)
        assert set(chosen) <= set(range(peers)) - {sender}
    if regular:
        into = np.bincount([peer for chosen in receivers for peer in chosen], minlength=peers)
        assert set(into.tolist()) == {min(fanout, peers - 1)}


@pytest.mark.parametrize("regular", [False, True])
def test_every_other_peer_is_as_likely_to_be_sent_to(regular: bool) -> None:
    peers, fanout, rounds = 6, 2, 3000
    counts = np.zeros((peers, peers), np.int64)
    for seed in range(rounds):
        for sender, chosen in enumerate(random_receivers(peers, fanout, seed, regular)):
            counts[sender, list(chosen)] += 1
    others = counts[~np.eye(peers, dtype=bool)]
    assert abs(others / rounds - fanout / (peers - 1)).max() < 0.04, "more than four standard deviations"
