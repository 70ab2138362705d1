"""Every peer alone: what the others are measured against."""

from __future__ import annotations

from collections.abc import Collection

from decentral.algorithms.base import Peer, SynchronousRounds


class Isolated(SynchronousRounds):
    """Local training only."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        return frozenset()

    async def run(self, peer: Peer) -> None:
        await super().run(peer)
        if peer.publisher is not None:
            await peer.clock.work(peer.publisher.own, 0.0)

    async def mix(self, peer: Peer, round: int) -> None:
        return
