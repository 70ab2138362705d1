"""Federated averaging without a server: one of the peers aggregates.

McMahan et al. 2017 (arXiv 1602.05629), algorithm 1, with all clients in every round or, as there, with a sample of them
(`fedavg_sample`): theta = sum_k (n_k / n) theta_k, or what another `averaging.rule` makes of them. With
`averaging.outer` an outer optimiser takes a step towards it. The aggregator is the present peer with the lowest index;
when it is lost in the middle of a round, the others turn to the next.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from decentral.algorithms.aggregator import AVERAGE, LOCAL, PATIENCE, Aggregator
from decentral.algorithms.base import Peer, SynchronousRounds, local_model, replace_model, train
from decentral.algorithms.fedavg_sample import SampledRounds
from decentral.algorithms.packing import LEFT, for_aggregator, remember, remembered, sound
from decentral.core.compression import compensated
from decentral.wire.messages import Model


class FedAvg(SynchronousRounds):
    """Every client sends its model to the aggregator and gets the sample-weighted average back."""

    def __init__(self, clients: int | None = None) -> None:
        """`clients`: so many are drawn anew in each round, a share C of them in the paper; None: all who are there."""
        self._clients = clients
        self._aggregator: Aggregator

    @property
    def newest(self) -> frozenset[str]:
        """Tags of models that are kept of rounds far ahead too: who is not drawn does not follow each round."""
        return frozenset() if self._clients is None else frozenset({LOCAL, AVERAGE})

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        return frozenset(range(peers)) - {index}

    async def rounds(self, peer: Peer) -> None:
        if self._clients is not None:
            return await SampledRounds(peer, self._clients).run()
        self._aggregator = Aggregator(peer)
        return await super().rounds(peer)

    async def learn(self, peer: Peer, round: int) -> None:
        await self._aggregator.recall(round)
        await train(peer, round)

    async def mix(self, peer: Peer, round: int) -> None:
        peer.phase(round, "exchange")
        began = peer.clock.now()
        own, session, left = await local_model(peer, round), peer.session, remembered(peer, LEFT)
        while (aggregator := min({peer.index, *session.present(round)})) != peer.index:
            shared = self._aggregator.last if round == 1 or aggregator in session.present(round - 1) else None
            letter = await peer.clock.work(partial(for_aggregator, peer, own, shared, left), 0.0)
            await session.push({aggregator}, letter)
            came = await sound(peer, await session.collect({aggregator}, AVERAGE, PATIENCE), own.tensors)
            if came or aggregator in session.present(round):
                break
        else:
            remember(peer, LEFT, {})
            own = replace(own, tensors=compensated(own.tensors, left))
            came = await self._aggregate(peer, round, own)
        if came:
            [average] = came.values()
            if self._aggregator.useful:
                self._aggregator.follow(round, average.tensors)
            await replace_model(peer, lambda: average.tensors)
        received = sorted(came.keys() - {peer.index})
        missing = sorted({aggregator} - {peer.index, *came})
        peer.journal.record(
            "exchanged", round=round, received=received, missing=missing, seconds=peer.clock.now() - began
        )

    async def _aggregate(self, peer: Peer, round: int, own: Model) -> dict[int, Model]:
        """The average of the models of all who are present, sent to them and returned under our own index."""
        session, last = peer.session, self._aggregator.last
        came = await sound(peer, await session.collect(session.present(round)), own.tensors if last is None else last)
        models = dict(sorted({peer.index: own, **came}.items()))
        letter, average = await self._aggregator.make(round, models, own.tensors)
        await session.push(session.present(round), letter)
        return {peer.index: average}
