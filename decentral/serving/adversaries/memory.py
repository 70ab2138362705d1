"""Sessions with replicas in one process: what is said is what would be, and there is no network below it.

For studies and tests of what clients make of replicas. Values pass from hand to hand, so frames, limits and identities
of connections are not tried here; `wire.sessions` has those.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from decentral.errors import Malformed, Refusal, Refused, TransportError, Unreachable
from decentral.serving.asking.replicas import Patience, Replicas
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Said, Task
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Client, Conversation, Serve, Session

PENDING = 8
"""Messages that may wait to be read at either end."""


class _Nobody:
    """Learns nothing of how replicas do."""

    def usual(self, peer: PeerId) -> float | None:
        return None

    def began(self, peer: PeerId) -> None:
        return None

    def ended(self, peer: PeerId, seconds: float | None) -> None:
        return None

    def withdrawn(self, peer: PeerId) -> None:
        return None


class MemoryReplicas(Replicas):
    """`services` by the peer that runs each; `client`: who asks them. One that raises what no service may has crashed,
    and every conversation with it ends.
    """

    def __init__(self, services: Mapping[PeerId, Serve], client: PeerId, patience: Patience | None = None) -> None:
        self.watch, self.patience = _Nobody(), patience or Patience()
        self._turns = {}
        self._sessions: dict[PeerId, MemorySession] = {
            peer: MemorySession(peer, serve, client) for peer, serve in services.items()
        }

    async def session(self, peer: PeerId, attested: bool = False) -> MemorySession:
        """Raises Unreachable for a peer that is not there, and for all where attested ones are wanted."""
        if attested:
            raise Unreachable(f"{peer}: shows nothing of its machine here")
        if peer not in self._sessions:
            raise Unreachable(f"{peer}: nobody is there")
        return self._sessions[peer]

    @property
    def traffic(self) -> tuple[int, int]:
        """Nothing is sent."""
        return 0, 0

    async def close(self) -> None:
        return None


class MemorySession(Session):
    """The client's end and the server's in one."""

    def __init__(self, to: PeerId, serve: Serve, client: PeerId) -> None:
        self.to = to
        self._serve, self._client = serve, client
        self._begun = 0
        self._talking: dict[int, tuple[Conversation, Client, asyncio.Task[None] | None]] = {}

    @asynccontextmanager
    async def converse(self) -> AsyncIterator[Conversation]:
        self._begun += 1
        number = self._begun
        conversation = Conversation(self, number, PENDING)

        async def say(said: Said) -> None:
            match said:
                case Commitment() | Reveal():
                    conversation.take(said)
                case Output() | Refused():
                    conversation.end(said)
                case _:
                    raise Malformed(Refusal.MALFORMED, f"a server that says {type(said).__name__}")

        self._talking[number] = conversation, Client(self._client, say, PENDING), None
        try:
            yield conversation
        finally:
            _, _, task = self._talking.pop(number)
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def write(self, number: int, said: Said) -> None:
        conversation, client, task = self._talking[number]
        match said:
            case Task():
                answering = asyncio.create_task(self._answer(said, client, conversation))
                self._talking[number] = conversation, client, answering
            case Open() | Fetch() if task is not None and not task.done():
                client.take(said)

    async def _answer(self, task: Task, client: Client, conversation: Conversation) -> None:
        try:
            await self._serve(task, client)
        except Malformed as error:
            conversation.end(Refused(error.reason, error.detail))
        except ConnectionError as error:
            broken: TransportError = Unreachable(f"{self.to}: {error}")
            for other, *_ in self._talking.values():
                other.end(broken)
