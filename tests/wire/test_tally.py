"""What a server counts of those who call it, over mutual TLS."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from decentral.errors import Malformed, Refusal, Refused
from decentral.run.metrics import OUTCOMES
from decentral.wire.conversation import Output, Prove, Task
from decentral.wire.sessions import Client
from decentral.wire.tally import Tally

TASK = Task("stage-0", bytes(32), {"x": torch.zeros(2)})


async def until(tally: Tally, **wanted: int) -> None:
    async with asyncio.timeout(20):
        while any(getattr(tally, name) != value for name, value in wanted.items()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_tasks_are_counted_by_how_they_end(serving: Any):
    answer, waits = asyncio.Event(), asyncio.Event()

    async def serve(task: Task, client: Client) -> None:
        if task.part == "wrong":
            raise Malformed(Refusal.MODEL, "another")
        waits.set()
        await answer.wait()
        await client.say(Output({"y": torch.zeros(1)}))

    transport, session = await serving(serve)
    with pytest.raises(Refused):
        await session.ask(Task("wrong", bytes(32), TASK.tensors), 20.0)
    asking = asyncio.create_task(session.ask(TASK, 20.0))
    await waits.wait()
    assert (transport.tally.waiting, transport.tally.sessions) == (1, 1)
    answer.set()
    await asking
    answer.clear()
    async with session.converse() as conversation:
        await conversation.say(TASK)
        await until(transport.tally, waiting=1)
    await until(transport.tally, answered=1, declined=1, called_off=1, waiting=0)
    assert transport.tally.refused == {Refusal.MODEL: 1} and transport.tally.proofs == 0


async def test_a_proved_answer_is_counted_as_a_proof_too(serving: Any):
    async def serve(task: Task, client: Client) -> None:
        await client.say(Output({"y": torch.zeros(1)}))

    transport, session = await serving(serve)
    await session.ask(Task(TASK.part, TASK.digest, TASK.tensors, prove=Prove()), 20.0)
    await until(transport.tally, answered=1, proofs=1)


def test_it_is_told_under_the_names_that_metrics_fold():
    tally = Tally(answered=3)
    tally.refused[Refusal.BUSY] += 2
    told = tally.as_event()
    assert set(OUTCOMES) < told.keys() and told["answered"] == 3 and told["refused"] == {"BUSY": 2}
