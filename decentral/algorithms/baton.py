"""What is handed on where every round has another aggregator (MoDeST), so that it can go on from the last aggregate.

An aggregator of MoDeST has not seen the last aggregate, unless it was drawn in that round too. Whoever made that one,
which is a participant of the next round, sends it along with its local model, and the outer optimiser's trail beside
it. With it the aggregator fills up what others sent in parts, and takes an outer step. Where no baton comes, it takes
the plain average and begins again without momentum, and those who sent parts send all the next time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from decentral.algorithms.packing import LEFT, for_aggregator, read, remembered, written
from decentral.core.compression import INDEX, unpack
from decentral.training.learner import State
from decentral.training.module_work import buffers_of
from decentral.wire.messages import Model

if TYPE_CHECKING:
    from decentral.algorithms.base import Peer

LAST, TRAIL = "@last/", "@trail/"
"""What names of a baton's tensors begin with in a message."""


@dataclass(frozen=True, slots=True)
class Baton:
    """An aggregate, and the outer optimiser's memory after it; empty where there is none."""

    last: State
    trail: State = field(default_factory=dict)


class Relay:
    """One peer's batons, and the messages that wait for one."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sparse = peer.encoding.whole is not peer.encoding
        self._needed = peer.outer is not None or self._sparse
        self.idle = peer.encoding.plain and not self._needed
        """Whether models go out as they are, and nothing with them."""
        self._batons: dict[int, Baton] = {}  # by the round of the aggregate
        self._waiting: dict[int, Model] = {}  # the latest of each sender
        self._base: State = {}
        self._left: State = {}

    def made(self, round: int, aggregate: State, baton: Baton | None) -> None:
        """This peer has the aggregate of a round, and knows what the one after it goes on from.

        It made it, with a `baton` or none; or it is the first model, which all have.
        """
        if self._needed:
            outer = self._peer.outer
            trail = {} if outer is None else outer.follow(aggregate, {} if baton is None else baton.trail)
            self._batons[round] = Baton(aggregate, trail)

    def baton(self, round: int) -> Baton | None:
        """What the aggregate of a round is made with."""
        return self._batons.get(round - 1)

    def took(self, round: int, baton: Baton | None) -> dict[int, Model]:
        """A message of a round brought a baton: returns, by sender, those that can now be read."""
        if baton is None or not self._needed:
            return {}
        self._batons[round - 1] = baton
        return self._released(round)

    def holds(self, round: int) -> dict[int, Model]:
        """This peer holds the aggregate of a round. What is older is forgotten; returns what can now be read."""
        self._batons = {last: baton for last, baton in self._batons.items() if last >= round}
        self._waiting = {sender: model for sender, model in self._waiting.items() if model.round > round}
        return self._released(round + 1)

    def _released(self, round: int) -> dict[int, Model]:
        found = {sender: model for sender, model in self._waiting.items() if model.round == round}
        self._waiting = {sender: model for sender, model in self._waiting.items() if sender not in found}
        return found

    def base_of(self, sender: int, model: Model, held: State, holding: int) -> State | None:
        """What a message is read with, by one who holds an aggregate; None: it has to wait."""
        if holding == model.round - 1 or not any(name.endswith(INDEX) for name in model.tensors):
            return held
        if (baton := self.baton(model.round)) is not None:
            return baton.last
        self._waiting[sender] = model
        return None

    def trained(self, aggregate: State) -> None:
        """The local model that is sent next was trained on this."""
        self._base, self._left = aggregate, remembered(self._peer, LEFT)

    def letter(self, local: Model, *, made: bool, again: bool) -> tuple[Model, Model]:
        """The local model for its aggregators, and what it counts as where this peer is one of them. Blocking.

        Who `made` the last aggregate sends it along, and all of its model; who sends `again`, all of its model.
        """
        letter = for_aggregator(self._peer, local, None if made or again else self._base, self._left)
        own = replace(local, tensors=unpack(letter.tensors, self._base)) if self._sparse else local
        baton = self.baton(local.round)
        return letter if baton is None or not made else with_baton(self._peer, letter, baton), own


def step_from(peer: Peer, average: State, baton: Baton | None) -> State:
    """What the peer's outer optimiser, if it has one, makes of an average; buffers are the average's. Blocking."""
    if peer.outer is None or baton is None:
        return average
    return peer.outer.step(baton.last, average, baton.trail, buffers_of(peer.learner))


def with_baton(peer: Peer, letter: Model, baton: Baton) -> Model:
    """A message that carries a baton too, packed as whole models are. Blocking."""
    added: dict[str, Tensor] = {}
    trail = {**baton.last, **baton.trail} if baton.trail else {}
    for mark, state in ((LAST, baton.last), (TRAIL, trail)):
        packed = written(peer, peer.encoding.whole, replace(letter, tensors=state, tag=mark))
        added |= {f"{mark}{name}": tensor for name, tensor in packed.tensors.items()}
    return replace(letter, tensors={**letter.tensors, **added})


def read_with_baton(model: Model, base: State) -> tuple[Model, Baton | None] | str:
    """A message as it came, unpacked, and the baton in it; or, in words, why it is not taken. Blocking."""
    parts: dict[str, dict[str, Tensor]] = {"": {}, LAST: {}, TRAIL: {}}
    for name, tensor in model.tensors.items():
        mark = next((mark for mark in (LAST, TRAIL) if name.startswith(mark)), "")
        parts[mark][name.removeprefix(mark)] = tensor
    own = read(replace(model, tensors=parts[""]), base)
    if isinstance(own, str):
        return own
    if not parts[LAST] and not parts[TRAIL]:
        return own, None
    last = read(replace(model, tensors=parts[LAST]), base)
    trail = read(replace(model, tensors=parts[TRAIL]), base) if parts[TRAIL] else replace(model, tensors={})
    if isinstance(last, str) or isinstance(trail, str):
        return f"a baton that cannot be read: {last if isinstance(last, str) else trail}"
    return own, Baton(last.tensors, trail.tensors)


def packed_with_baton(packed: State, *, trail: bool) -> dict[str, Tensor]:
    """A packed model as if it carried itself for a baton, which shows the form of such messages."""
    marks = (LAST, TRAIL) if trail else (LAST,)
    return {**packed, **{f"{mark}{name}": tensor for mark in marks for name, tensor in packed.items()}}
