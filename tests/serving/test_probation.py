"""A newcomer that answers rightly earns its name, one that lies or is silent does not, and neither is told."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from typing import Any

import torch

from decentral.serving.access import access
from decentral.serving.known_answers import KnownAnswers
from decentral.serving.ledger import Ledger
from decentral.serving.probation import Probation
from decentral.serving.replicas import Patience, Replicas
from decentral.serving.reputation import Reputations
from decentral.serving.routing import Router
from decentral.serving.stage import StageService

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


@asynccontextmanager
async def probation(cluster: Any, questions: int = 8):
    """All newcomers of the first stage are tested at every turn."""
    part = cluster.anchors.parts[0]
    ledger = Ledger.open(cluster.folder / "ledger.sqlite")
    answers, reputations = KnownAnswers(ledger), Reputations(ledger)
    for number in range(questions):
        batch = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            output = cluster.stages[0].run({part.inputs[0]: batch})
        answers.keep(part.name, bytes.fromhex(part.digest), {part.inputs[0]: batch}, output, [])
    async with access(cluster.folder) as opened:
        router = Router(reputations, time.monotonic, chance=random.Random(0), testing=1.0)
        replicas = Replicas(opened.links, router, Patience(opening=3, commit=3, reveal=1))
        try:
            yield Probation(opened.identity.id, opened.anchors, replicas, router, reputations, answers), part
        finally:
            await replicas.close()


async def test_whoever_answers_rightly_is_no_newcomer_for_long(cluster):
    made = await cluster(replicas=2)
    async with probation(made) as (tests, part):
        for _ in range(16):
            await tests.test(part)
        peers = [tests.reputations.of(peer.id) for peer in made.anchors.replicas(part.name)]
        assert not any(each.newcomer for each in peers)
        assert all(each.standing > 0.25 for each in peers)


async def test_whoever_lies_is_found_out_by_a_test(cluster):
    made = await cluster(replicas=2, liars={"stage-0-b": Lies})
    async with probation(made) as (tests, part):
        for _ in range(16):
            await tests.test(part)
        named = {peer.name: tests.reputations.of(peer.id) for peer in made.anchors.replicas(part.name)}
        assert named["stage-0-b"].newcomer and named["stage-0-b"].bad > 10
        assert not named["stage-0-a"].newcomer


async def test_nobody_gets_a_question_twice(cluster):
    made = await cluster(replicas=1)
    seen: list[bytes] = []
    service = made.services["stage-0-a"]
    compute = service.answer

    def answer(inputs: Any, client: Any) -> Any:
        seen.extend(tensor.numpy().tobytes() for tensor in inputs.values())
        return compute(inputs, client)

    service.answer = answer
    async with probation(made, questions=2) as (tests, part):
        for _ in range(6):
            await tests.test(part)
    assert len(seen) == len(set(seen)) == 2


async def test_an_answer_that_counts_becomes_a_question(cluster):
    from decentral.serving.client import Client

    made = await cluster()
    async with Client.connect(made.folder) as client:
        await client.predict(X)
    known = KnownAnswers(Ledger.open(made.folder / "client" / "ledger.sqlite"))
    part = made.anchors.parts[1]
    stranger = "b" * 52
    found = known.known(part.name, bytes.fromhex(part.digest), [stranger])
    assert found is not None
    with torch.no_grad():
        assert torch.allclose(
            next(iter(made.stages[1].run(found.inputs).values())), next(iter(found.output.values())), atol=1e-5
        )
