"""Stochastic gradient push: averaging over directed links, whose senders choose the weights.

Assran et al., ICML 2019 (arXiv 1811.10792), algorithm 1. A peer holds x and a push-sum weight w, and trains the
de-biased model z = x / w. It sends p_ji x and p_ji w, where the p_ji of a sender sum to one, and adds what it receives.
On the wire the model is z and the header's weight p_ji w, so that the new z is a weighted mean of what comes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decentral.algorithms.base import Peer, SynchronousRounds, average, exchange, local_model, train
from decentral.core.topology import exponential_hop
from decentral.training.learner import State
from decentral.wire.messages import Model

WEIGHT = "push_weight"


class SGP(SynchronousRounds):
    """On `topology: exponential` each peer sends to one other in each round, 1, 2, 4, ... places on; else to all
    neighbours. All that are sent a model, and the sender itself, get equal parts of its x and w.

    Who is absent is sent nothing, and its part stays with the sender. What was sent to a peer that dies is lost, x
    together with w: the others still agree, on a mean in which what was lost does not count.
    """

    async def learn(self, peer: Peer, round: int) -> None:
        weight = weight_of(peer)
        before = peer.learner.parameters() if weight != 1.0 else None
        await train(peer, round)
        if before is not None:  # z changed by u; it is x to which the algorithm adds u, so z changes by u / w
            start = before
            await peer.clock.work(lambda: peer.learner.load(step(start, peer.learner.view(), 1 / weight)), 0.0)

    async def mix(self, peer: Peer, round: int) -> None:
        to, of = links(peer, round)
        to &= peer.session.present(round)
        part = weight_of(peer) / (1 + len(to))
        local = await local_model(peer, round)
        own = Model(round=round, tensors=local.tensors, samples=local.samples, weight=part)
        models = await exchange(peer, round, to=to, of=of, own=own)
        models = {index: model for index, model in models.items() if plausible(peer, round, index, model)}
        total = math.fsum(model.weight for model in models.values())
        await average(peer, round, models, {index: model.weight / total for index, model in models.items()})
        peer.memory[WEIGHT] = torch.tensor(total, dtype=torch.float64)


def links(peer: Peer, round: int) -> tuple[frozenset[int], frozenset[int]]:
    """The peers to whom this one sends in a round, and those who send to it."""
    if peer.layout.topology != "exponential":
        return peer.session.partners, peer.session.partners
    hop, peers = exponential_hop(peer.layout.peers, round), peer.layout.peers
    to, of = (peer.index + hop) % peers, (peer.index - hop) % peers
    return frozenset({to}) - {peer.index}, frozenset({of}) - {peer.index}


def weight_of(peer: Peer) -> float:
    """The peer's push-sum weight w; one at the beginning."""
    return peer.memory[WEIGHT].item() if WEIGHT in peer.memory else 1.0


def plausible(peer: Peer, round: int, index: int, model: Model) -> bool:
    """All weights together are never more than the number of peers; who claims more wants to drown the others."""
    if model.weight <= peer.layout.peers:
        return True
    peer.journal.record("rejected", round=round, other=index, reason="push-sum weight")
    return False


def step(before: State, after: State, scale: float) -> dict[str, Tensor]:
    """before + scale (after - before); tensors without a fraction, such as counts, are those after."""
    return {
        name: before[name].lerp(tensor, scale) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }
