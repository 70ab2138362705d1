"""Decentralized parallel SGD: train, then average with the neighbours.

Lian et al. 2017 (arXiv 1705.09056), algorithm 1, with `training.steps: 1`: parameters become sum_j W_ij theta_j after
every batch. With local epochs it is what DIMAT's paper calls weight averaging (WA). Buffers (BatchNorm statistics) are
averaged like parameters, or estimated anew with `averaging.batchnorm: reestimate`.

Where only parts of models travel it is CHOCO-SGD (Koloskova, Stich, Jaggi 2019, arXiv 1902.00340, algorithm 2): a peer
keeps of each neighbour, and of itself, what all messages together have told, and goes the share gamma of the way from
the one to the average of the others: theta_i + gamma (sum_j W_ij told_j - told_i). A lost message leaves what is known
old, since values travel and not differences.
"""

from __future__ import annotations

from decentral.algorithms.base import Peer, SynchronousRounds, average, exchange, renormalise
from decentral.algorithms.packing import HEARD, SAID, known_of, matrices, remember, remembered
from decentral.core.compression import heavy
from decentral.training.learner import State
from decentral.wire.messages import Model


class DPSGD(SynchronousRounds):
    """Plain averaging over the rows of the mixing matrix; weights of absent neighbours go to those present."""

    async def mix(self, peer: Peer, round: int) -> None:
        if peer.encoding.whole is not peer.encoding:
            return await self._mix_what_is_known(peer, round)
        models = await exchange(peer, round)
        return await average(peer, round, models, renormalise(peer.weights, models.keys(), peer.index))

    async def _mix_what_is_known(self, peer: Peer, round: int) -> None:
        models = await exchange(peer, round, known=known_of(peer, peer.session.partners))
        own = models[peer.index]
        for other in models.keys() - {peer.index}:
            remember(peer, f"{HEARD}{other}/", matrices(models[other].tensors))
        told = Model(round, {**own.tensors, **remembered(peer, SAID)}, own.samples)

        def step(mean: State) -> State:
            return {
                name: own.tensors[name] + peer.encoding.step * (tensor - told.tensors[name])
                if heavy(tensor)
                else tensor
                for name, tensor in mean.items()
            }

        weights = renormalise(peer.weights, models.keys(), peer.index)
        await average(peer, round, {**models, peer.index: told}, weights, step)
