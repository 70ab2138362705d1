"""Epidemic learning: in every round each peer sends its model to a few others, drawn anew from all.

De Vos et al., NeurIPS 2023 (arXiv 2310.01972), algorithm 1: train, send to s random peers, then average what came with
one's own model, all alike. EL-Local lets each sender draw, so that some hear from many and some from nobody; in
EL-Oracle as many hear from one as one sends to. Both are drawn from (seed, round): everybody knows who sends to whom.
"""

from __future__ import annotations

from decentral.algorithms.base import Peer, SynchronousRounds, average, exchange
from decentral.core.seeds import derive_seed
from decentral.core.topology import random_receivers


class Epidemic(SynchronousRounds):
    """`fanout` models sent a round. The topology plays no part: anybody may be drawn."""

    def __init__(self, fanout: int = 1, regular: bool = False) -> None:
        """`fanout`: s of the paper; `regular`: EL-Oracle instead of EL-Local."""
        self.fanout, self.regular = fanout, regular

    def partners(self, index: int, neighbours: object, peers: int) -> frozenset[int]:
        return frozenset(range(peers)) - {index}

    async def mix(self, peer: Peer, round: int) -> None:
        to, of = self.links(peer, round)
        models = await exchange(peer, round, to=to, of=of)
        if len(models) > 1:
            await average(peer, round, models, dict.fromkeys(models, 1 / len(models)))

    def links(self, peer: Peer, round: int) -> tuple[frozenset[int], frozenset[int]]:
        """The peers to whom this one sends in a round, and those who send to it."""
        seed = derive_seed(peer.layout.seed, "epidemic", round)
        receivers = random_receivers(peer.layout.peers, self.fanout, seed, self.regular)
        of = (sender for sender, chosen in enumerate(receivers) if peer.index in chosen)
        return frozenset(receivers[peer.index]), frozenset(of)
