"""Gradient tracking with local steps: what a peer's own data pull it aside is learnt and cancelled.

Alghunaim, "Local exact-diffusion for decentralized optimization and learning" (LED, arXiv 2302.00620), algorithm 1 with
beta = 1 / tau, of the family of K-GT (arXiv 2301.01313). It was chosen because one model travels a round, as in D-PSGD,
and because its correction is added to parameters and not to gradients, so any optimiser will do. For peer i, round r:

    phi_i = x_i after tau local steps, with -y_i / tau added after each
    x_i <- sum_j W_ij phi_j         y_i <- y_i + phi_i - x_i         y_i = 0 at first

With constant learning rates the peers reach a minimum of the sum of their losses, where averaging alone does not.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from decentral.algorithms.base import Peer, SynchronousRounds, average, exchange, train
from decentral.training.learner import State

LAZINESS = 0.5
"""Share of (I + W) / 2 that is I: the analysis needs a positive definite matrix, which W of a ring is not."""


class GradientTracking(SynchronousRounds):
    """The corrections of all peers sum to zero as long as both ends of a link take part in each exchange.

    An absent neighbour's weight is kept by the peer itself, so that the matrix stays symmetric. A peer that dies takes
    its correction with it: the others still agree, and go on as if its last gradient were added to theirs.
    """

    async def learn(self, peer: Peer, round: int) -> None:
        await train(peer, round, {name: -tensor for name, tensor in peer.memory.items()} or None)

    async def mix(self, peer: Peer, round: int) -> None:
        models = await exchange(peer, round)
        weights = lazy(peer.weights, models, peer.index)

        def track(mean: State) -> State:
            peer.memory = tracked(peer.memory, models[peer.index].tensors, mean)
            return mean

        await average(peer, round, models, weights, track)


def lazy(weights: Mapping[int, float], present: Mapping[int, object], own: int) -> dict[int, float]:
    """The peer's row of (I + W) / 2, by index as `present`; what the absent would have weighed stays with the peer."""
    row = {index: (1 - LAZINESS) * weights.get(index, 0.0) for index in present}
    row[own] = 1.0 - sum(weight for index, weight in row.items() if index != own)
    return row


def tracked(memory: State, local: State, mixed: State) -> dict[str, Tensor]:
    """y + phi - x, for every tensor that has a fraction."""
    return {
        name: tensor - mixed[name] + memory[name] if name in memory else tensor - mixed[name]
        for name, tensor in local.items()
        if tensor.is_floating_point()
    }
