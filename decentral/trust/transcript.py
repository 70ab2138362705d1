"""What was ordered and what was said about it, as values: all that an answer's verdict is found from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from decentral.trust.consensus import Tensors
from decentral.trust.evidence import Kind, Reply, tensors_digest
from decentral.trust.order import Order, Step
from decentral.wire.messages import PeerId


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """What was said about one part.

    `inputs`: digest of the tensors that it was given; `asked`: who was, in the order of the line; `replies`: what came,
    where several with one output may share its tensors; `evidence`: what else speaks for the answer.
    """

    step: Step
    inputs: bytes
    asked: tuple[PeerId, ...]
    replies: Mapping[PeerId, Reply]
    evidence: Mapping[Kind, bytes] = field(default_factory=dict)

    @property
    def disputed(self) -> bool:
        """Whether not all who revealed an answer revealed the same one."""
        revealed = (self.replies[node].reveal for node in self.asked if node in self.replies)
        return len({reveal.output for reveal in revealed if reveal is not None}) > 1


@dataclass(frozen=True, slots=True, eq=False)
class Transcript:
    """What was ordered and what was said, part by part, as far as it went.

    `inputs`: the tensors that left the client, if they are kept, so that the first part can be computed again.
    """

    order: Order
    exchanges: tuple[Exchange, ...]
    inputs: Tensors | None = None

    def given(self, place: int) -> Tensors | None:
        """What a part was given, by its place, if the tensors are here."""
        wanted = self.exchanges[place].inputs
        if place:
            said = self.exchanges[place - 1].replies.values()
            return next((reply.tensors for reply in said if reply.sent == wanted), None)
        return self.inputs if self.inputs is not None and tensors_digest(self.inputs) == wanted else None
