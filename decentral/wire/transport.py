"""The seam between a peer and its network: gRPC in a deployment, memory in the simulator, nothing else changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from decentral.errors import Refusal
from decentral.wire.messages import Message, PeerId, Traffic


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its sender, who is authenticated by the transport and not claimed by the message.

    `answer` completes the request of the sender, `refuse` makes it fail there with `Refused(reason)`. Both do nothing
    for a message that was only sent: its sender went on when it was delivered.
    """

    sender: PeerId
    message: Message
    answer: Callable[[Message], None]
    refuse: Callable[[Refusal], None]


@dataclass(slots=True)
class TrafficCount:
    """Bytes after encoding, counted where they are sent, by what they carry."""

    sent: dict[Traffic, int] = field(default_factory=lambda: dict.fromkeys(Traffic, 0))

    def add(self, kind: Traffic, size: int) -> None:
        self.sent[kind] += size

    def as_dict(self) -> dict[str, int]:
        counts = {kind.value: self.sent[kind] for kind in Traffic}
        return {**counts, "total": sum(counts.values())}


class Transport(Protocol):
    """Moves messages between authenticated peers. All waits have deadlines; a failed send raises, never hangs."""

    id: PeerId
    traffic: TrafficCount

    def introduce(self, peer: PeerId, address: str) -> None:
        """Tells where a peer can be reached; a new address replaces the old one."""

    async def send(self, to: PeerId, message: Message) -> None:
        """Returns once the other peer holds the message. Raises Unreachable or Refused."""

    async def request(self, to: PeerId, message: Message, deadline: float) -> Message:
        """The other peer's answer, within `deadline` seconds. Raises Unreachable or Refused."""
        ...

    def inbox(self, *kinds: type[Message]) -> AsyncIterator[Envelope]:
        """Envelopes of these kinds, in the order of arrival. A kind belongs to one inbox at a time."""
        ...

    async def close(self) -> None:
        """Ends every connection; running calls of others fail as Unreachable."""
