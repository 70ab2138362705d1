"""What an aggregator makes of the models of its clients, and what is of use of it in the next round.

McMahan et al. 2017 (arXiv 1602.05629), algorithm 1: theta = sum_k (n_k / n) theta_k, or what another `averaging.rule`
makes of the models. With `averaging.outer` an outer optimiser takes a step towards it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from decentral.algorithms.base import aggregate, record_merge
from decentral.algorithms.baton import Baton, step_from
from decentral.algorithms.packing import remember, remembered, written
from decentral.core.compression import unpack
from decentral.training.learner import State
from decentral.wire.messages import Model

if TYPE_CHECKING:
    from decentral.algorithms.base import Peer

LOCAL, AVERAGE = "local", "average"
"""Tags of a client's model, and of an average."""

PATIENCE = 2.0
"""Round deadlines that a client waits for the average: the aggregator may take a whole one to collect."""

TRAIL, HELD = "trail/", "held"
"""In the memory: the outer optimiser's; the round of the average that this peer took last."""


class Aggregator:
    """One peer's averages: those that it makes, and those from which it would go on in another's place."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.last: State | None = None
        """The average of the round before, if this peer has it and there is a use for it."""

    @property
    def useful(self) -> bool:
        """Whether the average of one round is of use in the next."""
        return self._peer.outer is not None or self._peer.encoding.whole is not self._peer.encoding

    @property
    def held(self) -> int:
        """The round of the average that this peer took last; 0: the first model."""
        return int(self._peer.memory[HELD]) if HELD in self._peer.memory else 0

    async def recall(self, round: int) -> None:
        """Before the learner's model, which may be the average of the round before, is trained on."""
        if self.useful:
            kept = self.held == round - 1
            self.last = await self._peer.clock.work(self._peer.learner.parameters, 0.0) if kept else None

    async def make(self, round: int, models: Mapping[int, Model], trusted: State) -> tuple[Model, Model]:
        """The average of a round's models, by their index: as it is sent, and as everybody reads it.

        It may be rounded: all go on from the same model. `trusted` is the caller's own one, or the last average.
        """
        peer, last = self._peer, self.last
        peer.phase(round, "merge")
        began = peer.clock.now()
        samples = math.fsum(model.samples for model in models.values())
        weights = {index: model.samples / samples for index, model in models.items()}

        merged = await peer.clock.work(lambda: aggregate(peer.rule, models, weights, trusted), 0.0)
        record_merge(peer, round, models, merged, began)

        def finish() -> tuple[Model, Model]:
            state: State = merged.state
            if last is not None:
                state = step_from(peer, state, Baton(last, self._trail()))
            average = Model(round=round, tensors=state, samples=int(samples), tag=AVERAGE)
            letter = written(peer, peer.encoding.whole, average)
            return letter, replace(average, tensors=unpack(letter.tensors, state))

        return await peer.clock.work(finish, 0.0)

    def follow(self, round: int, average: State) -> None:
        """Notes that this peer has the average of a round, and what the outer optimiser would remember of it.

        Everybody does, so that the momentum does not die with the aggregator; who missed a round begins without.
        """
        self.note(round)
        if self._peer.outer is not None:
            remember(self._peer, TRAIL, self._peer.outer.follow(average, self._trail()))

    def note(self, round: int) -> None:
        """This peer has the average of a round."""
        self._peer.memory[HELD] = torch.tensor(round)

    def _trail(self) -> State:
        return {} if self.last is None else remembered(self._peer, TRAIL) or self.last
