"""Sampling with experts that are peers: the loop of `denoising`, with answers that come over the network.

Every batch has a task of its own, so that one is with the experts while another is with the router. An expert that
does not answer in time is dropped from the whole sampling; the others' weights are made anew, and the result says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.errors import Refusal, Refused, TransportError, leading
from decentral.serving.access import Access
from decentral.serving.denoising import Answer, Denoising, Evaluation, Gone
from decentral.serving.parts import MOST_BYTES
from decentral.trust.anchors import Anchor
from decentral.wire.conversation import Task
from decentral.wire.limits import Limits
from decentral.wire.sessions import Session, open_session

KIND = "expert"
OPENING = 10.0
"""Seconds to open a session with an expert."""
ANSWERING = 60.0
"""Seconds that an expert has for one batch."""
BUSY_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before an expert that is busy is asked again, doubled each time, for as long as it may take to answer."""


@dataclass(frozen=True, slots=True)
class RemoteExpert:
    """A session with the peer that serves one expert."""

    peer: Anchor
    session: Session

    async def evaluate(self, evaluation: Evaluation, answering: float = ANSWERING) -> Answer:
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
        return Gone(f"{self.peer.name}: answered without velocities") if velocity is None else velocity

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


@asynccontextmanager
async def remote_experts(cluster: Access) -> AsyncIterator[tuple[dict[int, RemoteExpert], dict[int, str]]]:
    """Sessions with all experts that can be reached, by number, and why the others cannot."""
    experts: dict[int, RemoteExpert] = {}
    absent: dict[int, str] = {}
    limits = Limits(model_bytes=MOST_BYTES)
    async with AsyncExitStack() as stack:

        async def reach(number: int, peer: Anchor) -> None:
            try:
                session = await stack.enter_async_context(
                    open_session(cluster.links, peer.id, limits=limits, deadline=OPENING)
                )
                experts[number] = RemoteExpert(peer, session)
            except TransportError as error:
                absent[number] = f"{peer.name}: {error}"

        for number, peer in sorted(cluster.serving(KIND).items()):
            await reach(number, peer)
        yield experts, absent


async def denoise_remotely(
    parts: Sequence[Denoising],
    experts: Mapping[int, RemoteExpert],
    after_step: Callable[[int, int], None] = lambda batch, step: None,
) -> Float[Tensor, "n c h w"]:
    """Takes all batches through every step, each at its own pace; `after_step(batch, step)` counts steps from 1.

    Raises Unreachable when no expert is left.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="router") as worker:  # one torch computation at a time

        async def answer(evaluation: Evaluation) -> Answer:
            expert = experts.get(evaluation.expert)
            return Gone("is not connected") if expert is None else await expert.evaluate(evaluation)

        async def take(batch: int, part: Denoising) -> None:
            while work := await loop.run_in_executor(worker, part.work):
                async with asyncio.TaskGroup() as asked:
                    answers = [asked.create_task(answer(evaluation)) for evaluation in work]
                before = part.step
                await loop.run_in_executor(worker, part.take, [one.result() for one in answers])
                if part.step > before:
                    after_step(batch, part.step)

        try:
            async with asyncio.TaskGroup() as tasks:
                for batch, part in enumerate(parts):
                    tasks.create_task(take(batch, part))
        except BaseExceptionGroup as group:
            raise leading(group) or group from None
    return torch.cat([part.latents for part in parts])
