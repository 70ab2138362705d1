"""Whose model has come: one peer's side of a training session, round by round.

A session is the peer's presence among its partners, and the models that it sends them and collects from them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from decentral.algorithms.presence import Presence
from decentral.errors import Refused, TransportError
from decentral.wire.messages import Model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AHEAD = 2
"""Rounds ahead of its own from which a peer keeps models. A partner that waits for ours is at most one ahead."""

TAGS = 2
"""Models that a partner may send in one round, told apart by their tags: its own, and an average."""


class Session(Presence):
    """One peer among its partners. Use `async with session.open()`; everything it starts ends there."""

    def __init__(self, newest: frozenset[str] = frozenset(), **presence: Any) -> None:
        """`newest`: tags under which the newest model of each partner is kept, of however far a round."""
        super().__init__(**presence)
        self._newest = newest
        self._models: dict[tuple[int, str], dict[int, Model]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """Serves the other peers for as long as the body runs, then says goodbye."""
        for index in sorted(self.partners):
            self.transport.introduce(self.members[index].id, self.members[index].address)
        async with asyncio.TaskGroup() as tasks:
            services = [
                tasks.create_task(self._answer()),
                tasks.create_task(self._receive()),
                tasks.create_task(self._heal()),
            ]
            try:
                yield self
                await self._leave()
            except asyncio.CancelledError:
                await self._leave()
                raise
            finally:
                for service in services:
                    service.cancel()

    def enter(self, round: int) -> None:
        """Begins a round: models of earlier ones are dropped."""
        self.round = round
        self._models = {key: models for key, models in self._models.items() if key[0] >= round}

    async def push(self, to: Collection[int], model: Model) -> None:
        """Sends one model to several peers at once; who cannot be reached is lost."""
        async with asyncio.TaskGroup() as tasks:
            for index in sorted(to):
                tasks.create_task(self._push(index, model))

    async def _push(self, index: int, model: Model) -> None:
        if model.tag not in self._newest and not await self._in_reach(index, model.round):
            return
        try:
            await self.transport.send(self.members[index].id, model)
        except Refused as refused:
            self._journal.record("refused", round=self.round, other=index, reason=refused.reason.name)
        except TransportError as error:
            self._silence.failed(index, error)
            self.lose(index)

    async def _in_reach(self, index: int, round: int) -> bool:
        """Waits for a partner that is so far behind that it would not keep a model of `round`; False: it is lost.

        Those who exchange models in every round never are, but in other algorithms a peer may run ahead.
        """
        stands, ends = -1, math.inf
        while (seen := self._seen[index]) + AHEAD < round:
            if seen > stands:
                stands, ends = seen, self._clock.now() + self.deadlines.round
            else:
                await self._clock.sleep(self.deadlines.probe)
            if self._clock.now() >= ends or await self._ping(index) is None:
                self.lose(index)
                return False
        return True

    async def collect(
        self, senders: Collection[int], tag: str = "local", patience: float = 1.0, *, returning: bool = False
    ) -> dict[int, Model]:
        """This round's models from `senders`, by index, as far as they come.

        Waits until each has come or its sender is lost, at most `patience` round deadlines after the last time that one
        of them was seen to go on from an earlier round; silent senders are probed. With `returning` those who are lost
        are waited for as well: they may come back.
        """
        key, wanted, round = (self.round, tag), frozenset(senders), self.round
        ends = self._clock.now() + patience * self.deadlines.round
        ahead: set[int] = set()
        if returning:
            await self.probe(wanted)  # who has come back was taken to be where we are
        passed = self._passed(wanted)
        while True:
            self._changed.clear()
            there = wanted if returning else self.present(round)
            awaited = (wanted & there) - self._models.get(key, {}).keys() - ahead
            if not awaited or self._clock.now() >= ends:
                break
            try:
                async with asyncio.timeout(self.deadlines.probe):
                    await self._changed.wait()
            except TimeoutError:
                ahead |= await self.probe(awaited)
                if self._passed(wanted) > passed:
                    passed, ends = self._passed(wanted), self._clock.now() + patience * self.deadlines.round
        came = self._models.get(key, {})
        return {index: came[index] for index in sorted(wanted & came.keys())}

    def latest(self, tag: str) -> dict[int, Model]:
        """The model of the latest round that has come from each partner under a tag, by index."""
        came = sorted((round, models) for (round, other), models in self._models.items() if other == tag)
        return {index: model for _, models in came for index, model in models.items()}

    def drop(self, index: int, model: Model) -> None:
        """Forgets a model of a partner's that is not taken."""
        self._models[model.round, model.tag].pop(index, None)

    async def stirred(self) -> bool:
        """Waits for a model, or for partners to come or go, until it is time to probe who is silent: then False."""
        try:
            async with asyncio.timeout(self.deadlines.probe):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def _passed(self, indices: Collection[int]) -> int:
        """Rounds up to the present one that partners have begun, all together."""
        return sum(min(self._seen[index], self.round) for index in indices)

    async def probe(self, indices: Collection[int]) -> set[int]:
        """Loses those who do not answer; returns those who are rounds ahead and will not send what we wait for."""
        return {index for index, round in (await self.poll(indices)).items() if round > self.round}

    async def poll(self, indices: Collection[int]) -> dict[int, int]:
        """The rounds that partners are in; who does not answer is lost."""
        rounds = await self.rounds_of(indices)
        for index in indices:
            if index not in rounds:
                self.lose(index)
        return rounds

    async def _receive(self) -> None:
        async for envelope in self.transport.inbox(Model):
            model, index = envelope.message, self._index_of.get(envelope.sender)
            if isinstance(model, Model) and index in self.partners and self._has_room(index, model):
                if model.tag in self._newest:
                    self._forget(index, model.tag)
                self._models.setdefault((model.round, model.tag), {})[index] = model
                self._seen[index] = max(self._seen[index], model.round)
                self._changed.set()

    def _has_room(self, index: int, model: Model) -> bool:
        """A partner is held few models: of this round and the next ones, under few tags."""
        if model.tag in self._newest:
            came = self.latest(model.tag).get(index)
            return max(self.round, -1 if came is None else came.round) <= model.round <= self._last
        tags = {tag for (round, tag), models in self._models.items() if round == model.round and index in models}
        return 0 <= model.round - self.round <= AHEAD and len(tags | {model.tag}) <= TAGS

    def _forget(self, index: int, tag: str) -> None:
        for (_, other), models in self._models.items():
            if other == tag:
                models.pop(index, None)
