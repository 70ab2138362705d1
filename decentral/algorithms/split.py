"""Split learning between two peers: the client has the images and both ends of the network, the server its middle.

The client asks, the server answers (`training.split`), batch by batch. An answer that does not come is asked for again;
the server answers twice what is asked twice. Where one of the two has gone back to an earlier state, because it had
crashed, the server says so, and both go on from the client's last checkpoint: the server keeps its last two.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from decentral.algorithms.base import Peer, finish
from decentral.algorithms.packing import remember, remembered
from decentral.errors import DecentralError, Refusal, Refused, TransportError, UserError
from decentral.training.learner import State
from decentral.training.split import CLIENT, SERVER, Ask, Kind, OutOfStep, SplitClient, SplitServer
from decentral.wire.messages import Model

R = TypeVar("R")

OVER, BYE, AGAIN = "over", "bye", "again"
"""Beside the kinds of questions: the round is over; there will be no other; the server has gone back."""

BEFORE = "before/"
"""In the server's memory: its last checkpoint but one, which a client that crashed may go on from."""

GROWTH = 2.0
"""How much longer a client waits each time before it asks again: a slow server is not to be asked ever more."""


ATTEMPTS = 10
"""At one round, after which it is no crash that makes a server say again and again that it has gone back."""


class BegunAgain(Exception):
    """The server has told the client to go back."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A learner's state after a round."""

    round: int
    model: State
    optimizer: State

    @classmethod
    def of(cls, peer: Peer) -> Kept:
        """Blocking."""
        return cls(peer.finished, peer.learner.parameters(), peer.learner.optimizer_state())

    def restore(self, peer: Peer) -> None:
        """Blocking."""
        peer.learner.load(self.model)
        peer.learner.load_optimizer(self.optimizer)
        peer.finished = self.round


class Split:
    """Peer 0 is the client, peer 1 the server; the topology has no say in it."""

    apart: ClassVar[bool] = True
    """A peer that was away goes on where it stopped: the other one waits for it."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        return {CLIENT: frozenset({SERVER}), SERVER: frozenset({CLIENT})}.get(index, frozenset())

    async def run(self, peer: Peer) -> None:
        """Raises DecentralError where the other peer is gone for good, or says what cannot be."""
        if isinstance(peer.learner, SplitClient):
            await _Client(peer, peer.learner).run()
        elif isinstance(peer.learner, SplitServer):
            await _Server(peer, peer.learner).run()
        else:
            raise UserError(f"algorithm 'split' needs the learner 'split', not a {type(peer.learner).__name__}")


class _Side:
    """What both do alike: hear the other one."""

    other: ClassVar[int]

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.deadlines = peer.session.deadlines
        self._inbox = peer.transport.inbox(Model)
        self._id = peer.session.members[self.other].id

    async def hear(self, seconds: float) -> Model | None:
        """The other's next message; None: there was none for so long."""
        try:
            async with asyncio.timeout(seconds):
                async for envelope in self._inbox:
                    if envelope.sender == self._id:
                        return cast(Model, envelope.message)
        except TimeoutError:
            return None
        raise DecentralError("the transport was closed in the middle of a round")

    def reject(self, problem: ValueError) -> DecentralError:
        """Journals what cannot be used; there is nobody else to go on with."""
        round, name = self.peer.session.round, self.peer.session.members[self.other].name
        self.peer.journal.record("rejected", round=round, other=self.other, reason=str(problem))
        return DecentralError(f"round {round}: {name} has sent what cannot be used: {problem}")

    async def work(self, fn: Callable[[], R], seconds: float = 0.0) -> R:
        return await self.peer.clock.work(fn, seconds)


class _Client(_Side):
    other = SERVER

    def __init__(self, peer: Peer, learner: SplitClient) -> None:
        super().__init__(peer)
        self.learner = learner
        self._waited = 0.0

    async def run(self) -> None:
        peer, last = self.peer, self.peer.schedule.rounds
        kept, attempts = await self.work(partial(Kept.of, peer)), Counter[int]()
        while peer.finished < last:
            try:
                await self._round(peer.finished + 1)
            except BegunAgain:
                attempts[peer.finished] += 1
                if attempts[peer.finished] == ATTEMPTS:
                    raise DecentralError(f"the server never gets to the end of round {peer.finished + 1}") from None
                peer.journal.record("restored", round=kept.round)
                await self.work(partial(kept.restore, peer))
                continue
            if peer.schedule.saves(peer.finished):
                kept = await self.work(partial(Kept.of, peer))
        await self._say(Model(round=last, tensors={}, tag=BYE))

    async def _round(self, round: int) -> None:
        peer, clock, self._waited = self.peer, self.peer.clock, 0.0
        peer.session.enter(round)
        peer.phase(round, "train")
        began = clock.now()
        report = await self._converse(round, self.learner.conversation(round), peer.pace.training)
        spent, waited = clock.now() - began, self._waited
        peer.journal.record(
            "trained", round=round, loss=report.loss, samples=report.samples, seconds=max(spent - waited, 0.0)
        )
        if peer.schedule.evaluates(round):
            peer.phase(round, "evaluate")
            began = clock.now()
            result = await self._converse(round, self.learner.examination(), peer.pace.forward)
            seconds = clock.now() - began
            peer.journal.record("evaluated", round=round, accuracy=result.accuracy, loss=result.loss, seconds=seconds)
        await self._ask(round, f"{OVER}/{self.learner.steps}", {})
        peer.journal.record("exchanged", round=round, received=[SERVER], missing=[], seconds=waited)
        await finish(peer, round)

    async def _converse(self, round: int, words: Generator[Ask, Mapping[str, Tensor], R], pace: Pace) -> R:
        """Carries each question to the server and the answer back."""
        answer: Mapping[str, Tensor] | None = None
        seconds = 0.0
        while True:
            said = await self.work(partial(_advance, words, answer), seconds)
            if isinstance(said, _End):
                return cast(R, said.value)
            rows = len(next(iter(said.tensors.values()), ()))
            answer = await self._ask(round, f"{said.kind.value}/{said.step}/{said.part}", said.tensors)
            seconds = pace(rows) * self.learner.portion / (1 if said.kind is Kind.EVALUATE else 2)

    async def _ask(self, round: int, tag: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The server's answer. Raises BegunAgain, and DecentralError where none comes within a round's deadline."""
        clock, message = self.peer.clock, Model(round=round, tensors=tensors, tag=tag)
        began, patience = clock.now(), self.deadlines.probe
        while clock.now() < began + self.deadlines.round:
            if not await self._say(message):
                await clock.sleep(self.deadlines.probe)
                continue
            ends = clock.now() + patience
            while (came := await self.hear(max(ends - clock.now(), 0.0))) is not None:
                if (came.round, came.tag) == (round, tag):
                    self._waited += clock.now() - began
                    return came.tensors
                if (came.round, came.tag) == (round, f"{AGAIN}/{tag}"):
                    raise BegunAgain
            patience *= GROWTH
        name = self.peer.session.members[SERVER].name
        raise DecentralError(f"round {round}: {name} has not answered for {self.deadlines.round:g} s")

    async def _say(self, message: Model) -> bool:
        """Whether the server has it. Raises DecentralError where it does not take it."""
        try:
            await self.peer.transport.send(self._id, message)
        except Refused as refused:
            if refused.reason is not Refusal.BUSY:
                raise DecentralError(f"the server refuses what it is asked: {refused}") from refused
            return False
        except TransportError:
            return False
        return True


class _Server(_Side):
    other = CLIENT

    def __init__(self, peer: Peer, learner: SplitServer) -> None:
        super().__init__(peer)
        self.learner = learner
        self._kept: dict[int, Kept] = {}
        self._at: int | None = peer.finished
        """The round after which the learner's state stands; None: in the middle of one."""
        self._last: Model | None = None
        """What was answered last: it is sent again if it is asked again."""
        self._spent = self._seen = 0.0

    async def run(self) -> None:
        peer = self.peer
        known = remembered(peer, BEFORE)
        if known:
            before = _unpacked(known)
            self._kept[before.round] = before
        self._kept[peer.finished] = await self.work(partial(Kept.of, peer))
        peer.session.enter(min(peer.finished + 1, peer.schedule.rounds))
        heard = peer.clock.now()
        while True:
            message = await self.hear(self.deadlines.probe)
            if message is not None:
                heard = peer.clock.now()
                if message.tag == BYE:
                    return
                await self._answer(message)
            elif CLIENT in peer.session.left or peer.clock.now() - heard > self.deadlines.round:
                if peer.finished == peer.schedule.rounds:
                    return
                if CLIENT in peer.session.left:
                    raise DecentralError(f"the client has left after round {peer.finished}")
                await peer.session.probe({CLIENT})
                if CLIENT not in peer.session.reachable:
                    raise DecentralError(f"the client has been gone for {self.deadlines.round:g} s")
                heard = peer.clock.now()  # it computes

    async def _answer(self, message: Model) -> None:
        """Raises DecentralError for what cannot be answered."""
        round, tag = message.round, message.tag
        first = tag.startswith(f"{Kind.FORWARD.value}/0/")
        if first or self._last is None or (self._last.round, self._last.tag) != (round, tag):
            try:
                if first:
                    await self._begin(round)
                if tag.startswith(f"{OVER}/"):
                    await self._over(round, tag)
                    tensors: dict[str, Tensor] = {}
                else:
                    tensors = await self._compute(message)
                self._last = Model(round=round, tensors=tensors, tag=tag)
            except OutOfStep:
                self._last = Model(round=round, tensors={}, tag=f"{AGAIN}/{tag}")
            except ValueError as problem:
                raise self.reject(problem) from None
        try:
            await self.peer.transport.send(self._id, self._last)
        except TransportError:
            return  # whoever wants it asks again

    async def _begin(self, round: int) -> None:
        """The state after the round before. Raises ValueError where it is not known any more."""
        if self._at != round - 1:
            if round - 1 not in self._kept:
                raise ValueError(f"the client goes on after round {round - 1}; kept are {sorted(self._kept)}")
            self.peer.journal.record("restored", round=round - 1)
            await self.work(partial(self._kept[round - 1].restore, self.peer))
        self._at, self._spent, self._seen = None, 0.0, 0.0
        self.peer.session.enter(round)
        self.peer.phase(round, "train")

    async def _compute(self, message: Model) -> dict[str, Tensor]:
        kind, step, part = _question(message.tag)
        rows = len(next(iter(message.tensors.values()), ()))
        pace, thirds = self.peer.pace, {Kind.FORWARD: 1, Kind.BACKWARD: 2}
        seconds = pace.forward(rows) if kind is Kind.EVALUATE else pace.training(rows) * thirds[kind] / 3
        ask, began = Ask(kind, step, message.tensors, part), self.peer.clock.now()
        made = await self.work(partial(self.learner.answer, message.round, ask), seconds * self.learner.portion)
        if kind is not Kind.EVALUATE:
            self._spent += self.peer.clock.now() - began
            self._seen += rows if kind is Kind.FORWARD else 0
        return made

    async def _over(self, round: int, tag: str) -> None:
        """The server's checkpoint is on disk before the client's is written. Raises OutOfStep."""
        peer = self.peer
        if tag != f"{OVER}/{self.learner.steps}" or self._at is not None:
            raise OutOfStep(f"round {round} is not at its end here")
        peer.journal.record("trained", round=round, loss=None, samples=int(self._seen), seconds=self._spent)
        peer.journal.record("exchanged", round=round, received=[CLIENT], missing=[], seconds=0.0)
        before = self._kept[max(kept for kept in self._kept if kept < round)]
        if peer.schedule.saves(round):
            remember(peer, BEFORE, _packed(before))
        await finish(peer, round)
        if peer.schedule.saves(round):
            self._kept = {before.round: before, round: await self.work(partial(Kept.of, peer))}
        self._at = round


Pace = Callable[[int], float]
"""Seconds that so many samples take."""


@dataclass(frozen=True, slots=True)
class _End:
    """What a conversation has come to: StopIteration cannot cross threads."""

    value: object


def _advance(words: Generator[Ask, Mapping[str, Tensor], R], answer: Mapping[str, Tensor] | None) -> Ask | _End:
    """Blocking."""
    try:
        return next(words) if answer is None else words.send(answer)
    except StopIteration as ended:
        return _End(ended.value)


def _question(tag: str) -> tuple[Kind, int, int]:
    """Raises ValueError."""
    kind, step, part = tag.split("/")
    return Kind(kind), int(step), int(part)


def _packed(kept: Kept) -> dict[str, Tensor]:
    model = {f"model/{name}": tensor for name, tensor in kept.model.items()}
    return {"round": torch.tensor(kept.round), **model, **{f"optimizer/{n}": t for n, t in kept.optimizer.items()}}


def _unpacked(known: State) -> Kept:
    def part(prefix: str) -> State:
        return {name.removeprefix(prefix): tensor for name, tensor in known.items() if name.startswith(prefix)}

    return Kept(int(known["round"]), part("model/"), part("optimizer/"))
