"""Federated averaging without a server: one of the peers aggregates.

McMahan et al. 2017 (arXiv 1602.05629), algorithm 1 with all clients in every round: theta = sum_k (n_k / n) theta_k,
or what another `averaging.rule` makes of them. With `averaging.outer` an outer optimiser takes a step towards it.
The aggregator is the present peer with the lowest index; when it is lost in the middle of a round, the others turn to
the next.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import torch

from decentral.algorithms.base import (
    Peer,
    SynchronousRounds,
    aggregate,
    local_model,
    record_merge,
    replace_model,
    train,
)
from decentral.algorithms.baton import Baton, step_from
from decentral.algorithms.packing import LEFT, for_aggregator, remember, remembered, sound, written
from decentral.core.compression import compensated, unpack
from decentral.training.learner import State
from decentral.wire.messages import Model

AVERAGE = "average"

PATIENCE = 2.0
"""Round deadlines that a client waits for the average: the aggregator may take a whole one to collect."""

TRAIL, HELD = "trail/", "held"
"""In the memory: the outer optimiser's; the round of the average that this peer took last."""


class FedAvg(SynchronousRounds):
    """Every peer sends its model to the aggregator and gets the sample-weighted average back."""

    def __init__(self) -> None:
        self._last: State | None = None
        """The average of the round before, if this peer has it and there is a use for it."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        return frozenset(range(peers)) - {index}

    async def learn(self, peer: Peer, round: int) -> None:
        if _remembers(peer):
            held = int(peer.memory[HELD]) if HELD in peer.memory else 0
            self._last = await peer.clock.work(peer.learner.parameters, 0.0) if held == round - 1 else None
        await train(peer, round)

    async def mix(self, peer: Peer, round: int) -> None:
        peer.phase(round, "exchange")
        began = peer.clock.now()
        own, session, left = await local_model(peer, round), peer.session, remembered(peer, LEFT)
        while (aggregator := min({peer.index, *session.present(round)})) != peer.index:
            shared = self._last if round == 1 or aggregator in session.present(round - 1) else None
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
            self._follow(peer, round, average.tensors)
            await replace_model(peer, lambda: average.tensors)
        received = sorted(came.keys() - {peer.index})
        missing = sorted({aggregator} - {peer.index, *came})
        peer.journal.record(
            "exchanged", round=round, received=received, missing=missing, seconds=peer.clock.now() - began
        )

    async def _aggregate(self, peer: Peer, round: int, own: Model) -> dict[int, Model]:
        """The average of the models of all who are present, sent to them and returned under our own index.

        What is returned is what the others read, rounded as it may be: all go on from the same model.
        """
        session, last = peer.session, self._last
        came = await sound(peer, await session.collect(session.present(round)), own.tensors if last is None else last)
        models: Mapping[int, Model] = dict(sorted({peer.index: own, **came}.items()))
        peer.phase(round, "merge")
        began = peer.clock.now()
        samples = math.fsum(model.samples for model in models.values())
        weights = {index: model.samples / samples for index, model in models.items()}

        merged = await peer.clock.work(lambda: aggregate(peer.rule, models, weights, own.tensors), 0.0)
        record_merge(peer, round, models, merged, began)

        def finish() -> tuple[Model, Model]:
            state: State = merged.state
            if last is not None:
                state = step_from(peer, state, Baton(last, self._trail(peer)))
            average = Model(round=round, tensors=state, samples=int(samples), tag=AVERAGE)
            letter = written(peer, peer.encoding.whole, average)
            return letter, replace(average, tensors=unpack(letter.tensors, state))

        letter, average = await peer.clock.work(finish, 0.0)
        await session.push(session.present(round), letter)
        return {peer.index: average}

    def _follow(self, peer: Peer, round: int, average: State) -> None:
        """Notes that this peer has the average of a round, and what the outer optimiser would remember of it.

        Everybody does, so that the momentum does not die with the aggregator; who missed a round begins without.
        """
        if not _remembers(peer):
            return
        peer.memory[HELD] = torch.tensor(round)
        if peer.outer is not None:
            remember(peer, TRAIL, peer.outer.follow(average, self._trail(peer)))

    def _trail(self, peer: Peer) -> State:
        return {} if self._last is None else remembered(peer, TRAIL) or self._last


def _remembers(peer: Peer) -> bool:
    """Whether the average of one round is of use in the next."""
    return peer.outer is not None or peer.encoding.whole is not peer.encoding
