"""Where arrived messages wait for whoever reads their kind; one per transport, the same in every world.

A message may come before its reader is ready (a fast neighbour is a round ahead), so kinds without an inbox are kept
too. What one sender can fill is bounded, so nobody can take the place of another.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from itertools import count

from decentral.errors import Malformed, Refusal, Unreachable
from decentral.wire.messages import Message, PeerId
from decentral.wire.transport import Envelope


class Mailbox:
    """Holds at most `pending` envelopes of one kind from one sender."""

    def __init__(self, pending: int) -> None:
        self._pending = pending
        self._arrivals = count()
        self._kept: dict[type[Message], deque[tuple[int, Envelope]]] = {}
        self._held: Counter[tuple[type[Message], PeerId]] = Counter()
        self._owners: dict[type[Message], Inbox] = {}
        self.closed = False

    def deliver(self, envelope: Envelope) -> None:
        """Raises Malformed(BUSY) if too much of this sender waits already."""
        kind = type(envelope.message)
        if self._held[kind, envelope.sender] >= self._pending or self.closed:
            raise Malformed(Refusal.BUSY, f"{self._pending} messages of this kind wait already")
        self._held[kind, envelope.sender] += 1
        self._kept.setdefault(kind, deque()).append((next(self._arrivals), envelope))
        if kind in self._owners:
            self._owners[kind].wake()

    def ask(self, sender: PeerId, message: Message) -> Question:
        """Delivers a message, whose reader may answer. Raises Malformed(BUSY)."""
        question = Question()
        self.deliver(Envelope(sender, message, question.settle, question.settle))
        return question

    def inbox(self, *kinds: type[Message]) -> Inbox:
        """Opens an inbox for these kinds. One that had a kind before loses it, and ends when it has lost them all."""
        inbox = Inbox(self)
        for kind in kinds:
            former = self._owners.get(kind)
            self._owners[kind] = inbox
            if former is not None:
                former.wake()
        return inbox

    def close(self) -> None:
        """Ends every inbox; what nobody has read is dropped."""
        self.closed = True
        self._kept.clear()
        self._held.clear()
        owners, self._owners = self._owners, {}
        for inbox in owners.values():
            inbox.wake()

    def owns(self, inbox: Inbox) -> bool:
        return any(owner is inbox for owner in self._owners.values())

    def take(self, inbox: Inbox) -> Envelope | None:
        """The oldest envelope of an inbox's kinds."""
        kinds = [kind for kind, owner in self._owners.items() if owner is inbox and self._kept.get(kind)]
        if not kinds:
            return None
        kind = min(kinds, key=lambda kind: self._kept[kind][0][0])
        _, envelope = self._kept[kind].popleft()
        self._held[kind, envelope.sender] -= 1
        if not self._held[kind, envelope.sender]:
            del self._held[kind, envelope.sender]
        return envelope


class Inbox(AsyncIterator[Envelope]):
    """Envelopes of some kinds in the order of arrival. Read by one task at a time."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def __anext__(self) -> Envelope:
        while self._mailbox.owns(self):
            envelope = self._mailbox.take(self)
            if envelope is not None:
                return envelope
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration


class Question:
    """The asking side's half of an envelope: an answer or a refusal, whichever is given first."""

    def __init__(self) -> None:
        self._outcome: asyncio.Future[Message | Refusal | None] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Message | Refusal) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def on_settled(self, call: Callable[[], object]) -> None:
        """Calls back once nobody waits any more, for whatever reason."""
        self._outcome.add_done_callback(lambda outcome: call())

    def abandon(self) -> None:
        """Nobody will answer any more."""
        if not self._outcome.done():
            self._outcome.set_result(None)

    async def outcome(self) -> Message:
        """The answer. Raises Malformed with the reason of a refusal, Unreachable if it was abandoned."""
        outcome = await self._outcome
        if isinstance(outcome, Refusal):
            raise Malformed(outcome, "")
        if outcome is None:
            raise Unreachable("the other peer went away")
        return outcome
