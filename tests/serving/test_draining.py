"""A client whose replica drains asks another one, and holds nothing against it."""

from __future__ import annotations

import asyncio
from typing import Any

import torch

from decentral.serving.client import Client

MANY = 6
X = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))


async def test_what_is_asked_while_a_replica_drains_is_answered_and_the_replica_not_blamed(cluster: Any) -> None:
    made = await cluster(replicas=4)
    gone = next(peer.id for peer in made.anchors.peers if peer.name == "stage-0-a")
    async with Client.connect(made.folder) as client:
        asked = [asyncio.create_task(client.predict(X)) for _ in range(MANY)]
        await asyncio.sleep(0.05)
        drained = asyncio.create_task(made.transports["stage-0-a"].drain(60.0))
        asked += [asyncio.create_task(client.predict(X)) for _ in range(MANY)]
        predictions = await asyncio.gather(*asked)
        assert await drained
        predictions += [await client.predict(X) for _ in range(3)]
    assert all(torch.equal(prediction.output, made.expected(X)) for prediction in predictions)
    assert not [fault for prediction in predictions for fault in prediction.faults if fault.node == gone]
    assert [problem for prediction in predictions for problem in prediction.problems.values() if "draining" in problem]
