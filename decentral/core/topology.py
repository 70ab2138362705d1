"""Who talks to whom, and with which weight: graphs over the peers' indices and their mixing matrices.

Metropolis-Hastings weights: Xiao, Boyd, Kim, "Distributed average consensus with least-mean-square deviation" (2007),
equation 8. They are symmetric and doubly stochastic on any graph; on a ring and on a full graph all are equal.
Schedules that change with the round follow from its number alone, so all peers know them without a message.
Free of torch, so that a recipe's topology is checked at once; `core.mixing` gives the same matrix as a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from jaxtyping import Float64

from decentral.core.seeds import derive_seed
from decentral.errors import UserError
from decentral.registry import Registry

if TYPE_CHECKING:
    Graph = nx.Graph[int]
else:
    Graph = nx.Graph

_HERE = "decentral.core.topology"
TOPOLOGIES = Registry(
    "topology",
    {
        "ring": f"{_HERE}:ring",
        "full": f"{_HERE}:full",
        "star": f"{_HERE}:star",
        "torus": f"{_HERE}:torus",
        "exponential": f"{_HERE}:exponential",
        "regular": f"{_HERE}:regular",
        "erdos-renyi": f"{_HERE}:erdos_renyi",
        "file": f"{_HERE}:from_file",
    },
)
"""Constructors `(peers, seed, **options) -> Graph`."""

MEASURED = 256
"""Peers of a graph up to which its diameter and spectral gap are computed."""

_ATTEMPTS = 1000
"""Random graphs drawn before a connected one is given up."""


def build(name: str, peers: int, seed: int = 0, **options: object) -> Graph:
    """The connected graph of a topology over the peers 0 .. peers - 1.

    Raises UserError for a name, an option or a number of peers that does not make such a graph.
    """
    if peers < 1:
        raise UserError(f"a topology needs at least one peer, not {peers}")
    drawn: Graph = TOPOLOGIES.construct(name, peers, seed, **options)
    if set(drawn.nodes) != set(range(peers)):
        raise UserError(f"the topology {name!r} must have exactly the peers 0 to {peers - 1}")
    if any(first == second for first, second in drawn.edges):
        raise UserError(f"the topology {name!r} connects a peer with itself")
    if not nx.is_connected(drawn):
        parts = " | ".join(" ".join(map(str, sorted(part))) for part in nx.connected_components(drawn))
        raise UserError(f"the topology {name!r} is not connected: its parts would never hear of one another ({parts})")
    return _graph(peers, drawn.edges)


def ring(peers: int, seed: int = 0) -> Graph:
    """Every peer has the one before and the one after as neighbours."""
    return _graph(peers, ((peer, (peer + 1) % peers) for peer in range(peers)))


def full(peers: int, seed: int = 0) -> Graph:
    """Every peer is a neighbour of every other."""
    return _graph(peers, ((i, j) for i in range(peers) for j in range(i)))


def star(peers: int, seed: int = 0) -> Graph:
    """Peer 0 is the neighbour of all others, who have no other."""
    return _graph(peers, ((0, peer) for peer in range(1, peers)))


def torus(peers: int, seed: int = 0) -> Graph:
    """A grid, as square as the number of peers allows, with both borders closed; a prime number of peers is a ring."""
    rows = max(rows for rows in range(1, peers + 1) if rows * rows <= peers and peers % rows == 0)
    columns = peers // rows
    right = (
        (row * columns + column, row * columns + (column + 1) % columns) for row, column in np.ndindex(rows, columns)
    )
    down = ((row * columns + column, (row + 1) % rows * columns + column) for row, column in np.ndindex(rows, columns))
    return _graph(peers, [*right, *down])


def exponential(peers: int, seed: int = 0) -> Graph:
    """Peer i has the neighbours i ± 1, i ± 2, i ± 4, ... (mod peers): logarithmic degree and diameter."""
    hops = [1 << power for power in range((peers - 1).bit_length())]
    return _graph(peers, ((peer, (peer + hop) % peers) for peer in range(peers) for hop in hops))


def regular(peers: int, seed: int = 0, *, degree: object) -> Graph:
    """A random graph in which every peer has `degree` neighbours, drawn among the connected ones."""
    if type(degree) is not int or degree < 0:
        raise UserError(f"the degree of a regular graph is a whole number, not {degree!r}")
    _require(degree < peers, f"a {degree}-regular graph needs at least {degree + 1} peers, not {peers}")
    _require(
        peers * degree % 2 == 0,
        f"there is no {degree}-regular graph of {peers} peers: peers times degree must be even",
    )
    return _connected(
        lambda attempt: nx.random_regular_graph(degree, peers, seed=attempt),
        f"no connected {degree}-regular graph of {peers} peers was found; choose a higher degree",
        seed,
    )


def erdos_renyi(peers: int, seed: int = 0, *, probability: object) -> Graph:
    """Every two peers are neighbours with this probability, drawn among the connected graphs."""
    if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
        raise UserError(f"the probability of an edge lies between 0 and 1, not {probability!r}")
    return _connected(
        lambda attempt: nx.gnp_random_graph(peers, probability, seed=attempt),
        f"no connected graph of {peers} peers was found with edge probability {probability}; choose a higher one",
        seed,
    )


def from_file(peers: int, seed: int = 0, *, path: object) -> Graph:
    """The edges in a text file, one `i j` a line; empty lines and what follows a # do not count."""
    if not isinstance(path, str):
        raise UserError(f"the path of a topology's file is a string, not {path!r}")
    try:
        with open(path, encoding="utf-8") as lines:  # noqa: PTH123 - core has no business with paths
            return _graph(peers, parse_edges(lines, peers, path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the topology's edges: {error}") from error


def parse_edges(lines: Iterable[str], peers: int, source: str) -> list[tuple[int, int]]:
    """Edges from lines `i j`; UserError names `source` and the line that is not one."""
    edges = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        here = f"{source}:{number}"
        _require(
            len(words) == 2 and all(word.isdecimal() for word in words),
            f"{here}: an edge is two peers' numbers, such as '0 1', not {line.strip()!r}",
        )
        first, second = map(int, words)
        _require(max(first, second) < peers, f"{here}: peer {max(first, second)} is not one of 0 to {peers - 1}")
        _require(first != second, f"{here}: peer {first} cannot be its own neighbour")
        edges.append((first, second))
    return edges


def metropolis_hastings(graph: Graph) -> Float64[np.ndarray, "n n"]:
    """W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, W_ii what is missing to one (Xiao, Boyd, Kim 2007, eq. 8)."""
    peers = graph.number_of_nodes()
    degree = dict(graph.degree())
    weights = np.zeros((peers, peers))
    for i, j in graph.edges:
        weights[i, j] = weights[j, i] = 1 / (1 + max(degree[i], degree[j]))
    weights[np.diag_indices(peers)] = 1 - weights.sum(axis=1)
    return weights


def mixing_row(graph: Graph, peer: int) -> dict[int, float]:
    """One row of `metropolis_hastings`, zeros left out: the same numbers, to the last bit, without the whole matrix."""
    degree = len(graph[peer])
    row = np.zeros(graph.number_of_nodes())
    for other in graph[peer]:
        row[other] = 1 / (1 + max(degree, len(graph[other])))
    row[peer] = 1 - row.sum()
    return {int(other): float(row[other]) for other in np.flatnonzero(row > 0)}


def random_matching(edges: Sequence[tuple[int, int]], seed: int) -> dict[int, int]:
    """Pairs of neighbours in which nobody has two partners, as partner by peer; no further edge could be added.

    Edges in random order, each taken whose two ends are still free: every edge has its chance, which is what the
    convergence of randomized gossip needs (Boyd, Ghosh, Prabhakar, Shah, "Randomized gossip algorithms", IEEE
    Transactions on Information Theory 52 (2006), the synchronous model).
    """
    ordered = sorted(edges)
    partner: dict[int, int] = {}
    for place in np.random.default_rng(seed).permutation(len(ordered)):
        first, second = ordered[place]
        if first not in partner and second not in partner:
            partner |= {first: second, second: first}
    return partner


@lru_cache(maxsize=8)
def random_receivers(peers: int, fanout: int, seed: int, regular: bool) -> tuple[tuple[int, ...], ...]:
    """To whom each peer sends: `fanout` distinct others by sender, all others where there are no more than that.

    Each sender draws for itself, as in EL-Local of De Vos et al. 2023 (arXiv 2310.01972); or, `regular`, as many send
    to a peer as it sends to, as in EL-Oracle: the peers stand in a circle in random order, and all send the same random
    distances on.
    """
    random, others = np.random.default_rng(seed), peers - 1
    fanout = min(fanout, others)
    if fanout < 1:
        return ((),) * peers
    if regular:
        circle = random.permutation(peers)
        hops = 1 + random.choice(others, fanout, replace=False)
        receivers = np.empty((peers, fanout), np.int64)
        receivers[circle] = circle[(np.arange(peers)[:, None] + hops) % peers]
    else:
        receivers = np.array([random.choice(others, fanout, replace=False) for _ in range(peers)])
        receivers += receivers >= np.arange(peers)[:, None]  # all but oneself
    return tuple(tuple(row) for row in receivers.tolist())


def exponential_hop(peers: int, round: int) -> int:
    """How far every peer sends in `round` (1, 2, ...): 1, 2, 4, ..., the largest power below `peers`, 1, 2, ...

    The directed exponential graph of Assran et al. 2019 (arXiv 1811.10792) with one message a round. 0 for a single
    peer.
    """
    powers = (peers - 1).bit_length()
    return 1 << (round - 1) % powers if powers else 0


def spectral_gap(weights: Float64[np.ndarray, "n n"]) -> float:
    """1 - ‖W - 11ᵀ/n‖₂: the share of disagreement that one round of mixing removes at least, between 0 and 1.

    For a symmetric W this is one minus its second largest eigenvalue modulus, the rate of DIMAT's Theorem 1.
    """
    return float(1 - np.linalg.norm(weights - 1 / len(weights), ord=2))


def diameter(graph: Graph) -> int:
    """The number of hops between the two peers that are farthest apart.

    Above `MEASURED` peers an upper bound of it, twice the way from peer 0 to the farthest: to look from every peer
    would take longer than what the number is for.
    """
    if graph.number_of_nodes() > MEASURED:
        return 2 * max(nx.single_source_shortest_path_length(graph, 0).values())
    return int(nx.diameter(graph))


def _graph(peers: int, edges: Iterable[tuple[int, int]]) -> Graph:
    """Nodes and edges in ascending order, so that whoever walks the graph walks it the same way in every world."""
    graph: Graph = nx.Graph()
    graph.add_nodes_from(range(peers))
    graph.add_edges_from(sorted({(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]}))
    return graph


def _connected(draw: Callable[[int], Graph], problem: str, seed: int) -> Graph:
    for attempt in range(_ATTEMPTS):
        graph = draw(derive_seed(seed, "topology", attempt))
        if nx.is_connected(graph):
            return graph
    raise UserError(problem)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise UserError(problem)
