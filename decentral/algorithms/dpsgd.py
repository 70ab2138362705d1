"""Decentralized parallel SGD: train, then average with the neighbours.

Lian et al. 2017 (arXiv 1705.09056), algorithm 1, with `training.steps: 1`: parameters become sum_j W_ij theta_j after
every batch. With local epochs it is what DIMAT's paper calls weight averaging (WA). Buffers (BatchNorm statistics) are
averaged like parameters, or estimated anew with `averaging.batchnorm: reestimate`.
"""

from __future__ import annotations

from decentral.algorithms.base import Peer, SynchronousRounds, average, exchange, renormalise


class DPSGD(SynchronousRounds):
    """Plain averaging over the rows of the mixing matrix; weights of absent neighbours go to those present."""

    async def mix(self, peer: Peer, round: int) -> None:
        models = await exchange(peer, round)
        await average(peer, round, models, renormalise(peer.weights, models.keys(), peer.index))
