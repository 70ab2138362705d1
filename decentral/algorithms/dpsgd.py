"""Decentralized parallel SGD with local epochs: train, then average with the neighbours.

Lian et al. 2017 (arXiv 1705.09056), algorithm 1 with several local steps between two mixing steps: parameters become
sum_j W_ij theta_j. Buffers (BatchNorm statistics) are averaged like parameters.
"""

from __future__ import annotations

from decentral.algorithms.base import Peer, SynchronousRounds, exchange, renormalise
from decentral.core.averaging import weighted_average


class DPSGD(SynchronousRounds):
    """Plain averaging over the rows of the mixing matrix; weights of absent neighbours go to those present."""

    async def mix(self, peer: Peer, round: int) -> None:
        models = await exchange(peer, round)
        peer.phase(round, "merge")
        began = peer.clock.now()
        weights = renormalise(peer.weights, models.keys(), peer.index)

        def merge() -> None:
            peer.learner.load(weighted_average([model.tensors for model in models.values()], list(weights.values())))

        await peer.clock.work(merge, 0.0)
        peer.journal.record("merged", round=round, weights=weights, moved=None, seconds=peer.clock.now() - began)
