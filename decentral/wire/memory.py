"""The network of the simulator: the same messages, bytes and failures as gRPC's, on a virtual clock.

A model takes its turn on its sender's uplink (size / bandwidth seconds), then the latency; where a trace gives the
receiver a downlink, it shares that with whatever else comes in, byte by byte. A letter slips in between two chunks.
What is lost is sent again after a pause that doubles, as TCP would; what stays unanswered until its deadline is
unreachable. Losses are drawn by the indices of sender and receiver and the number of the message between the two, so
they depend on nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from decentral.core.fluid import FluidLink
from decentral.core.seeds import derive_seed
from decentral.errors import Malformed, Refusal, Refused, Silent, Unreachable
from decentral.wire import codec
from decentral.wire.limits import Limits
from decentral.wire.mailbox import Inbox, Mailbox, Question
from decentral.wire.messages import Join, Message, Model, PeerId
from decentral.wire.tensors import EncodedModel, ModelDecoder, encoded
from decentral.wire.traces import Trace
from decentral.wire.transport import TrafficCount

T = TypeVar("T")

RETRANSMIT = 4.0
"""Latencies until a lost message is sent again; doubled each time."""
MAX_RETRANSMIT = 1.0
"""Seconds."""
RESOLUTION = 1e-6
"""Seconds of virtual time that are no time."""


def _still(until: float) -> None:
    """Nobody waits for news of what is under way."""


class MemoryNetwork:
    """Connects peers of one process: `latency` in seconds, `bandwidth` in bytes per second, `loss` a probability.

    A `trace` has other latencies and bandwidths for every peer, by its index, and downlinks beside the uplinks.
    """

    def __init__(
        self,
        latency: float = 0.01,
        bandwidth: float = 12.5e6,
        loss: float = 0.0,
        seed: int = 0,
        trace: Trace | None = None,
    ) -> None:
        self.loss, self.seed, self.trace = loss, seed, trace
        self._latency, self._bandwidth = latency, bandwidth
        self._indices: dict[PeerId, int] = {}
        self._peers: dict[PeerId, MemoryTransport] = {}
        self._groups: dict[PeerId, int] = {}
        self._free: dict[PeerId, float] = {}
        self._downlinks: dict[PeerId, FluidLink] = {}
        self._messages: Counter[tuple[int, int]] = Counter()

    def transport(
        self,
        peer: PeerId,
        *,
        limits: Limits | None = None,
        members: Callable[[PeerId], bool] = lambda peer: True,
        call_deadline: float = 30.0,
        index: int | None = None,
        padding: int = 0,
    ) -> MemoryTransport:
        """Connects a peer, also again after a crash; its `index` defaults to the order of the first connections.

        SIMULATED: every model that it sends is counted, and takes its time, as if it were `padding` bytes larger.
        """
        if peer in self._peers:
            raise ValueError(f"{peer} is connected already")
        self._indices.setdefault(peer, len(self._indices) if index is None else index)
        self._free[peer] = 0.0
        if self.trace is not None:
            self._downlinks[peer] = FluidLink(self.trace.downlink[self._indices[peer]])
        self._peers[peer] = MemoryTransport(self, peer, limits or Limits(), members, call_deadline, padding=padding)
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

    def takes(self, sender: PeerId, size: int) -> float:
        """Seconds that `size` bytes need to leave a peer."""
        return size / (self._bandwidth if self.trace is None else self.trace.uplink[self._indices[sender]])

    def latency(self, sender: PeerId, receiver: PeerId) -> float:
        """Seconds of the way from one peer to the other, who may be a stranger."""
        if self.trace is None or receiver not in self._indices:
            return self._latency
        return self.trace.latency(self._indices[sender], self._indices[receiver])

    async def carry(
        self,
        sender: PeerId,
        receiver: PeerId,
        size: int,
        *,
        queues: bool,
        moving: Callable[[float], None] = _still,
    ) -> MemoryTransport:
        """The receiver, once `size` bytes have reached it, however often they were lost. Raises Unreachable.

        A model queues for the links; a letter slips in between two of its chunks. The caller's deadline ends the wait;
        `moving` is told until when bytes are known to be under way, which is no silence.
        """
        loop = asyncio.get_running_loop()
        self.find(sender)
        draws = self._draws(sender, receiver) if self.loss else None
        takes, latency = self.takes(sender, size), self.latency(sender, receiver)
        pause = RETRANSMIT * latency
        target = self._peers.get(receiver)
        while True:
            if receiver not in self._peers and not self._apart(sender, receiver):
                await asyncio.sleep(2 * latency)  # there and back, and nothing of the message left
                return self.find(receiver)
            free = self.uplink_free(sender)
            self._free[sender] = free + takes
            downlink = self._downlinks.get(receiver)
            if downlink is None:
                await asyncio.sleep((free if queues else loop.time()) + takes + latency - loop.time())
            elif queues:
                await self._flow(downlink, free + latency, free + takes + latency, size / takes, moving)
                moving = _still  # what is sent again for ever is silence
            else:
                await asyncio.sleep(max(takes, size / downlink.rate) + latency)
                downlink.slip_in(loop.time(), size)
            lost = draws is not None and draws.random() < self.loss
            if not lost and not self._apart(sender, receiver):
                found = self.find(receiver)
                if target is not None and found is not target:
                    raise Unreachable(f"{receiver}: connection reset")  # it has crashed and come back
                return found
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRANSMIT)

    async def _flow(
        self, downlink: FluidLink, start: float, end: float, rate: float, moving: Callable[[float], None]
    ) -> None:
        """Bytes that come to a downlink from `start` to `end`, until the last of them has passed."""
        loop = asyncio.get_running_loop()
        downlink.expect(start, end, rate)
        moving(end)
        try:
            await asyncio.sleep(end - loop.time())
        except asyncio.CancelledError:
            downlink.cut(loop.time(), start, end, rate)
            raise
        passed = downlink.passed(loop.time())
        moving(passed)
        if passed - loop.time() > RESOLUTION:
            await asyncio.sleep(passed - loop.time())

    def _draws(self, sender: PeerId, receiver: PeerId) -> random.Random:
        """The luck of the next message between two peers."""
        pair = self._indices[sender], self._indices.get(receiver, -1)
        number = self._messages[pair]
        self._messages[pair] += 1
        return random.Random(derive_seed(self.seed, "loss", *pair, number))  # noqa: S311

    async def return_trip(self, sender: PeerId, receiver: PeerId) -> None:
        """The way of a receipt or a refusal."""
        await asyncio.sleep(self.latency(sender, receiver))

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
        *,
        padding: int = 0,
    ) -> None:
        self.id = peer
        self.traffic = TrafficCount()
        self.limits = limits
        self._network = network
        self._members = members
        self._call_deadline = call_deadline
        self._padding = padding
        self._mailbox = Mailbox(limits.pending)
        self._questions: dict[Question, None] = {}

    # ---- the seam ------------------------------------------------------------------------------------------------

    def introduce(self, peer: PeerId, address: str) -> None:
        """All peers of a process know one another."""

    async def send(self, to: PeerId, message: Message) -> None:
        if isinstance(message, Model):
            model = encoded(message)
            size = model.size + self._padding
            leaves = self._network.uplink_free(self.id) + self._network.takes(self.id, size)

            async def push(receiver: MemoryTransport) -> None:
                receiver.take_model(self.id, model)
                await self._network.return_trip(to, self.id)

            await self._call(to, message, size, leaves + self._call_deadline, push)  # queueing is no silence
        else:
            data = codec.encode_letter(message, only_deliver=True)

            async def put(receiver: MemoryTransport) -> None:
                receiver.take_letter(self.id, type(message), data)
                await self._network.return_trip(to, self.id)

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
            async with asyncio.timeout_at(ends) as deadline:

                def moving(until: float) -> None:
                    deadline.reschedule(until + self._call_deadline)

                receiver = await self._network.carry(
                    self.id, to, size, queues=isinstance(message, Model), moving=moving
                )
                self.traffic.add(codec.traffic_of(message), size)
                try:
                    return await deliver(receiver)
                except Malformed as refusal:
                    await self._network.return_trip(to, self.id)
                    raise Refused(refusal.reason, refusal.detail) from None
        except TimeoutError:
            raise Silent(f"{to}: silent until the deadline") from None

    # ---- being called --------------------------------------------------------------------------------------------

    def take_model(self, sender: PeerId, model: EncodedModel) -> None:
        """Raises Malformed."""
        self._admit(sender)
        decoder = ModelDecoder(self.limits)
        for frame in model.frames():
            decoder.feed(frame)
        self._mailbox.ask(sender, decoder.finish())

    def take_letter(self, sender: PeerId, kind: type[Message], data: bytes) -> Question:
        """Raises Malformed."""
        if kind is not Join:
            self._admit(sender)
        letter, only_deliver = codec.decode_letter(kind, data, self.limits)
        question = self._mailbox.ask(sender, letter)
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
