"""Sampling with experts that are peers: the loop of `denoising`, with answers that come over the network.

Every batch has a task of its own, so that one is with the experts while another is with the router. Two are with an
expert at a time, and with all of them no more than who asks says: to wait here costs none of the time that they have to
answer. An expert that does not answer in time is
dropped from the whole sampling, unless another peer serves the same expert: then that one is asked, and the images are
the same. Of an expert that is dropped, weights go to the others. The result says so.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.errors import Refusal, Refused, TransportError, leading
from decentral.serving.access import Access
from decentral.serving.experts.denoising import Answer, Denoising, Evaluation, Gone, fault
from decentral.serving.parts import MOST_BYTES, MOST_SAMPLES
from decentral.trust.anchors import Anchor
from decentral.wire.clock import worker
from decentral.wire.conversation import Task
from decentral.wire.limits import Limits
from decentral.wire.sessions import Session, open_session

KIND = "expert"
OPENING = 10.0
"""Seconds to open a session with an expert."""
ANSWERING = 60.0
"""Seconds that an expert has for one batch."""
AT_ONCE = 2
"""Batches that an expert is sent at a time: one is on its way while another is computed."""
BUSY_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before an expert that is busy is asked again, doubled each time, for as long as it may take to answer."""


def most_together(shape: tuple[int, ...]) -> int:
    """Samples of that shape, each with its label, that an expert takes in one task."""
    return min(MOST_SAMPLES, (MOST_BYTES - 8) // (4 * math.prod(shape) + 8))  # 8: the time, and a label


@dataclass(frozen=True, slots=True)
class Replica:
    """A session with a peer that serves an expert."""

    peer: Anchor
    session: Session

    async def evaluate(self, evaluation: Evaluation, answering: float) -> Answer:
        """Its velocities, or why there are none."""
        tensors = {"x": evaluation.sample, "t": torch.tensor(evaluation.t, dtype=torch.float64)}
        if evaluation.labels is not None:
            tensors["labels"] = evaluation.labels
        task = Task(self.peer.part, bytes.fromhex(self.peer.digest), tensors)
        try:
            output = await self._ask(task, answering)
        except TransportError as error:
            return Gone(f"{self.peer.name}: {error}")
        velocity = output.get("v")
        problem = "answered without velocities" if velocity is None else fault(evaluation, velocity)
        return velocity if velocity is not None and not problem else Gone(f"{self.peer.name}: {problem}")

    async def _ask(self, task: Task, answering: float) -> Mapping[str, Tensor]:
        loop, pause = asyncio.get_running_loop(), BUSY_PAUSE
        ends = loop.time() + answering
        while True:
            try:
                return (await self.session.ask(task, max(ends - loop.time(), 0.001))).tensors
            except Refused as refused:
                if refused.reason is not Refusal.BUSY or loop.time() + pause > ends:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(slots=True)
class RemoteExpert:
    """The peers that serve one expert: the first is asked until it fails, and then the next one in its place."""

    replicas: list[Replica]
    """Of those who can still be asked, the first is the one that is."""
    lost: list[str] = field(default_factory=list)
    """Who was asked before, or could not be reached at the beginning, and why it is no more."""
    together: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(sys.maxsize))
    """Turns that it has together with other experts."""
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def evaluate(self, evaluation: Evaluation, answering: float = ANSWERING) -> Answer:
        """Velocities, or why nobody gives any."""
        async with self._free, self.together:
            return await self._evaluate(evaluation, answering)

    async def _evaluate(self, evaluation: Evaluation, answering: float) -> Answer:
        while self.replicas:
            first = self.replicas[0]
            answer = await first.evaluate(evaluation, answering)
            if isinstance(answer, Tensor):
                return answer
            if self.replicas and self.replicas[0] is first:  # nobody who asked at the same time was faster
                self.replicas.pop(0)
                self.lost.append(f"{answer.why} (at t = {evaluation.t:.3f})")
        return Gone("; ".join(self.lost))

    @property
    def replaced(self) -> str:
        """Who answers instead of whom; empty where the first one does, or nobody."""
        return f"{self.replicas[0].peer.name} instead of {'; '.join(self.lost)}" if self.replicas and self.lost else ""


@dataclass(frozen=True, slots=True)
class RemoteExperts:
    """What a cluster serves: experts that somebody answers for, by number, and why there are no others."""

    experts: dict[int, RemoteExpert] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    """All that were opened."""


@asynccontextmanager
async def remote_experts(cluster: Access, at_once: int | None = None) -> AsyncIterator[RemoteExperts]:
    """Sessions with all peers that serve experts and can be reached.

    `at_once`: how many tasks they have together at a time; None: as many as there are.
    """
    found, limits = RemoteExperts(), Limits(model_bytes=MOST_BYTES)
    together = asyncio.Semaphore(sys.maxsize if at_once is None else at_once)
    async with AsyncExitStack() as stack:
        for number, peers in sorted(cluster.serving(KIND).items()):
            expert = RemoteExpert([], together=together)
            for peer in peers:
                try:
                    opening = open_session(cluster.links, peer.id, limits=limits, deadline=OPENING)
                    expert.replicas.append(Replica(peer, await stack.enter_async_context(opening)))
                except TransportError as error:
                    expert.lost.append(f"{peer.name}: {error}")
            found.sessions.extend(replica.session for replica in expert.replicas)
            if expert.replicas:
                found.experts[number] = expert
            else:
                found.absent[number] = "; ".join(expert.lost)
        yield found


async def denoise_remotely(
    parts: Sequence[Denoising],
    experts: Mapping[int, RemoteExpert],
    after_step: Callable[[int, int], None] = lambda batch, step: None,
) -> Float[Tensor, "n c h w"]:
    """Takes all batches through every step, each at its own pace; `after_step(batch, step)` counts steps from 1.

    Raises Unreachable when no expert is left.
    """
    loop = asyncio.get_running_loop()
    with worker("router") as router:  # one torch computation at a time

        async def answer(evaluation: Evaluation) -> Answer:
            expert = experts.get(evaluation.expert)
            return Gone("is not connected") if expert is None else await expert.evaluate(evaluation)

        def go_on(part: Denoising, answers: Sequence[Answer]) -> list[Evaluation]:
            part.take(answers)
            return part.work()

        async def take(batch: int, part: Denoising) -> None:
            work = await loop.run_in_executor(router, part.work)
            while work:
                async with asyncio.TaskGroup() as asked:
                    answers = [asked.create_task(answer(evaluation)) for evaluation in work]
                before = part.step
                work = await loop.run_in_executor(router, go_on, part, [one.result() for one in answers])
                if part.step > before:
                    after_step(batch, part.step)

        try:
            async with asyncio.TaskGroup() as tasks:
                for batch, part in enumerate(parts):
                    tasks.create_task(take(batch, part))
        except BaseExceptionGroup as group:
            raise leading(group) or group from None
    return torch.cat([part.latents for part in parts])
