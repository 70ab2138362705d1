"""The network of the simulator: the same messages, bytes and failures as gRPC's, on a virtual clock.

A model takes its turn on its sender's uplink (size / bandwidth seconds), then the latency. What is lost is sent again
after a pause that doubles, as TCP would; what stays unanswered until its deadline is unreachable. Losses are drawn by
the indices of sender and receiver and the number of the message between the two, so they depend on nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from decentral.core.seeds import derive_seed
from decentral.errors import Malformed, Refusal, Refused, Unreachable
from decentral.wire import codec
from decentral.wire.limits import Limits
from decentral.wire.mailbox import Inbox, Mailbox, Question
from decentral.wire.messages import Join, Message, Model, PeerId
from decentral.wire.tensors import EncodedModel, ModelDecoder, encoded
from decentral.wire.transport import Envelope, TrafficCount

T = TypeVar("T")

RETRANSMIT = 4.0
"""Latencies until a lost message is sent again; doubled each time."""
MAX_RETRANSMIT = 1.0
"""Seconds."""


class MemoryNetwork:
    """Connects peers of one process: `latency` in seconds, `bandwidth` in bytes per second, `loss` a probability."""

    def __init__(self, latency: float = 0.01, bandwidth: float = 12.5e6, loss: float = 0.0, seed: int = 0) -> None:
        self.latency, self.bandwidth, self.loss, self.seed = latency, bandwidth, loss, seed
        self._indices: dict[PeerId, int] = {}
        self._peers: dict[PeerId, MemoryTransport] = {}
        self._groups: dict[PeerId, int] = {}
        self._free: dict[PeerId, float] = {}
        self._messages: Counter[tuple[int, int]] = Counter()

    def transport(
        self,
        peer: PeerId,
        *,
        limits: Limits | None = None,
        members: Callable[[PeerId], bool] = lambda peer: True,
        call_deadline: float = 30.0,
    ) -> MemoryTransport:
        """Connects a peer, also again after a crash. Peers are numbered in the order of their first connections."""
        if peer in self._peers:
            raise ValueError(f"{peer} is connected already")
        self._indices.setdefault(peer, len(self._indices))
        self._free[peer] = 0.0
        self._peers[peer] = MemoryTransport(self, peer, limits or Limits(), members, call_deadline)
        return self._peers[peer]

    def crash(self, peer: PeerId) -> None:
        """Disconnects a peer without a word: what waits there is lost, and who calls it finds nobody."""
        transport = self._peers.pop(peer, None)
        if transport is not None:
            transport.disconnect()

    def partition(self, *groups: Collection[PeerId]) -> None:
        """From now on, messages between groups are lost. Peers that no group names are together in one more."""
        self._groups = {peer: number for number, group in enumerate(groups, start=1) for peer in group}

    def heal(self) -> None:
        """Ends a partition."""
        self._groups = {}

    def find(self, peer: PeerId) -> MemoryTransport:
        """Raises Unreachable if nobody is there."""
        if peer not in self._peers:
            raise Unreachable(f"{peer}: connection refused")
        return self._peers[peer]

    def uplink_free(self, sender: PeerId) -> float:
        """The loop's time at which all that a peer is sending has left it."""
        return max(asyncio.get_running_loop().time(), self._free[sender])

    async def carry(self, sender: PeerId, receiver: PeerId, size: int, *, queues: bool) -> MemoryTransport:
        """The receiver, once `size` bytes have reached it, however often they were lost. Raises Unreachable.

        A model queues for the uplink; a letter slips in between two of its chunks. The caller's deadline ends the wait.
        """
        loop = asyncio.get_running_loop()
        self.find(sender)
        pair = self._indices[sender], self._indices.get(receiver, -1)
        draws = random.Random(derive_seed(self.seed, "loss", *pair, self._messages[pair]))  # noqa: S311
        self._messages[pair] += 1
        pause, takes = RETRANSMIT * self.latency, size / self.bandwidth
        while True:
            if receiver not in self._peers and not self._apart(sender, receiver):
                await asyncio.sleep(2 * self.latency)  # there and back, and nothing of the message left
                return self.find(receiver)
            free = self.uplink_free(sender)
            self._free[sender] = free + takes
            await asyncio.sleep((free if queues else loop.time()) + takes + self.latency - loop.time())
            lost = draws.random() < self.loss
            if not lost and not self._apart(sender, receiver):
                return self.find(receiver)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRANSMIT)

    async def return_trip(self) -> None:
        """The way of a receipt or a refusal."""
        await asyncio.sleep(self.latency)

    def _apart(self, sender: PeerId, receiver: PeerId) -> bool:
        return self._groups.get(sender, 0) != self._groups.get(receiver, 0)


class MemoryTransport:
    """See `Transport`. What arrives was encoded and decoded as on a wire: limits hold and no memory is shared."""

    def __init__(
        self,
        network: MemoryNetwork,
        peer: PeerId,
        limits: Limits,
        members: Callable[[PeerId], bool],
        call_deadline: float,
    ) -> None:
        self.id = peer
        self.traffic = TrafficCount()
        self.limits = limits
        self._network = network
        self._members = members
        self._call_deadline = call_deadline
        self._mailbox = Mailbox(limits.pending)
        self._questions: dict[Question, None] = {}

    # ---- the seam ------------------------------------------------------------------------------------------------

    def introduce(self, peer: PeerId, address: str) -> None:
        """All peers of a process know one another."""

    async def send(self, to: PeerId, message: Message) -> None:
        if isinstance(message, Model):
            model = encoded(message)
            leaves = self._network.uplink_free(self.id) + model.size / self._network.bandwidth

            async def push(receiver: MemoryTransport) -> None:
                receiver.take_model(self.id, model)
                await self._network.return_trip()

            await self._call(to, message, model.size, leaves + self._call_deadline, push)  # queueing is no silence
        else:
            data = codec.encode_letter(message, only_deliver=True)

            async def put(receiver: MemoryTransport) -> None:
                receiver.take_letter(self.id, type(message), data)
                await self._network.return_trip()

            ends = asyncio.get_running_loop().time() + self._call_deadline
            await self._call(to, message, len(data), ends, put)

    async def request(self, to: PeerId, message: Message, deadline: float) -> Message:
        data = codec.encode_letter(message)

        async def ask(receiver: MemoryTransport) -> bytes:
            answer = await receiver.take_letter(self.id, type(message), data).outcome()
            reply = codec.encode_answer(answer)
            receiver.traffic.add(codec.traffic_of(answer), len(reply))
            await self._network.carry(to, self.id, len(reply), queues=False)
            return reply

        ends = asyncio.get_running_loop().time() + deadline
        answer = codec.decode_answer(await self._call(to, message, len(data), ends, ask), self.limits)
        if answer is None:
            raise Unreachable(f"{to}: an empty answer")
        return answer

    def inbox(self, *kinds: type[Message]) -> Inbox:
        return self._mailbox.inbox(*kinds)

    async def close(self) -> None:
        self._network.crash(self.id)

    # ---- calling -------------------------------------------------------------------------------------------------

    async def _call(
        self,
        to: PeerId,
        message: Message,
        size: int,
        ends: float,
        deliver: Callable[[MemoryTransport], Awaitable[T]],
    ) -> T:
        """Carries a message over and the receiver's word back. Its bytes count when it was taken or refused."""
        try:
            async with asyncio.timeout_at(ends):
                receiver = await self._network.carry(self.id, to, size, queues=isinstance(message, Model))
                self.traffic.add(codec.traffic_of(message), size)
                try:
                    return await deliver(receiver)
                except Malformed as refusal:
                    await self._network.return_trip()
                    raise Refused(refusal.reason, refusal.detail) from None
        except TimeoutError:
            raise Unreachable(f"{to}: silent until the deadline") from None

    # ---- being called --------------------------------------------------------------------------------------------

    def take_model(self, sender: PeerId, model: EncodedModel) -> None:
        """Raises Malformed."""
        self._admit(sender)
        decoder = ModelDecoder(self.limits)
        for frame in model.frames():
            decoder.feed(frame)
        self._deliver(sender, decoder.finish())

    def take_letter(self, sender: PeerId, kind: type[Message], data: bytes) -> Question:
        """Raises Malformed."""
        if kind is not Join:
            self._admit(sender)
        letter, only_deliver = codec.decode_letter(kind, data, self.limits)
        question = self._deliver(sender, letter)
        if not only_deliver:
            self._questions[question] = None
            question.on_settled(lambda: self._questions.pop(question, None))
        return question

    def disconnect(self) -> None:
        """Ends what others wait for here."""
        self._mailbox.close()
        for question in list(self._questions):
            question.abandon()

    def _admit(self, sender: PeerId) -> None:
        if not self._members(sender):
            raise Malformed(Refusal.NOT_A_MEMBER, "this peer has not admitted you")

    def _deliver(self, sender: PeerId, message: Message) -> Question:
        question = Question()
        self._mailbox.deliver(Envelope(sender, message, question.settle, question.settle))
        return question
