"""A newcomer that answers rightly earns its name, one that lies or is silent does not, and neither is told."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from decentral.core.reputation import Reputation
from decentral.errors import Malformed, Refusal
from decentral.serving.access import access
from decentral.serving.asking.replicas import Patience, Replicas
from decentral.serving.client import Client
from decentral.serving.selection.known_answers import KnownAnswers
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.probation import Probation, Sparing
from decentral.serving.selection.reputation import Reputations
from decentral.serving.selection.routing import Router
from decentral.serving.stages.stage import StageService
from decentral.trust.anchors import Part
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.messages import PeerId

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


async def nothing(part: str, inputs: Any) -> Any:
    raise AssertionError("this client holds no part")


async def turn(tests: Probation, part: Part) -> None:
    """A request to which nobody has answered, and what happens beside it."""
    server = tests.anchors.replicas(part.name)[0].id
    step = Step(part.name, bytes.fromhex(part.digest), server, {server: 1.0})
    order = Order(bytes(32), 1, tests.client, 0, Policy(), bytes(32), (step,))
    await tests.beside(Transcript(order, (Exchange(step, bytes(32), (), {}),)), 0)


def always(router: Router, candidates: Sequence[PeerId]) -> PeerId | None:
    """A router to which it is always time for a test."""
    return next((peer for peer in candidates if router._reputations.of(peer).newcomer), None)


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
            me = opened.identity.id
            yield Probation(me, opened.anchors, replicas, router, reputations, answers, nothing, ()), part
        finally:
            await replicas.close()


async def test_whoever_answers_rightly_is_no_newcomer_for_long(cluster):
    made = await cluster(replicas=2)
    async with probation(made) as (tests, part):
        for _ in range(16):
            await turn(tests, part)
        peers = [tests.reputations.of(peer.id) for peer in made.anchors.replicas(part.name)]
        assert not any(each.newcomer for each in peers)
        assert all(each.standing > 0.25 for each in peers)


async def test_whoever_lies_is_found_out_by_a_test(cluster):
    made = await cluster(replicas=2, liars={"stage-0-b": Lies})
    async with probation(made) as (tests, part):
        for _ in range(16):
            await turn(tests, part)
        named = {peer.name: tests.reputations.of(peer.id) for peer in made.anchors.replicas(part.name)}
        assert named["stage-0-b"].newcomer and named["stage-0-b"].bad > 10
        assert not named["stage-0-a"].newcomer


async def test_an_answer_does_not_wait_for_a_newcomer_that_hangs_in_its_test(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await cluster(replicas=1)
    monkeypatch.setattr(Router, "tests", always)
    monkeypatch.setattr("decentral.serving.selection.notebook.PARTING", 0.2)
    alone, endless = Policy(replicas=1, quorum=1, faulty=0), Patience(opening=600, commit=600, reveal=600)
    with Ledger.open(made.folder / "client" / "ledger.sqlite") as ledger:
        part, answers = made.anchors.parts[0], KnownAnswers(ledger)
        with torch.no_grad():
            answers.keep(
                part.name,
                bytes.fromhex(part.digest),
                {part.inputs[0]: X + 1},
                made.stages[0].run({part.inputs[0]: X + 1}),
                [],
            )
    service, tested = made.services["stage-0-a"], asyncio.Event()
    commit = service.commit

    async def hangs_later(sealed: Any, client: Any) -> None:
        service.commit = hangs
        await commit(sealed, client)

    async def hangs(sealed: Any, client: Any) -> None:
        tested.set()
        await asyncio.Event().wait()

    service.commit = hangs_later
    async with asyncio.timeout(60):
        async with Client.connect(made.folder, policy=alone, patience=endless) as client:
            assert (await client.predict(X)).verdict.valid
            await tested.wait()
    assert remembered(made)["stage-0-a"].newcomer, "nothing is known of who could not say anything"


async def test_a_busy_newcomer_is_tested_another_time(cluster: Any) -> None:
    made = await cluster(replicas=1)
    service = made.services["stage-0-a"]

    class Busy(StageService):
        async def __call__(self, task: Any, client: Any) -> None:
            raise Malformed(Refusal.BUSY, "come again")

    service.__class__ = Busy
    async with probation(made) as (tests, part):
        object.__setattr__(tests.replicas, "patience", Patience(opening=3, commit=0.2, reveal=1))
        await turn(tests, part)
        assert tests.reputations.of(made.anchors.replicas(part.name)[0].id) == Reputation()


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
            await turn(tests, part)
    assert len(seen) == len(set(seen)) == 2


async def test_an_answer_that_counts_becomes_a_question(cluster):
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


def remembered(made: Any) -> dict[str, Any]:
    with Ledger.open(made.folder / "client" / "ledger.sqlite") as ledger:
        reputations = Reputations(ledger)
        return {peer.name: reputations.of(peer.id) for peer in made.anchors.peers}


def model_of(made: Any) -> dict[str, Any]:
    return {part.name: stage for part, stage in zip(made.anchors.parts, made.stages, strict=True)}


async def test_who_is_asked_everything_is_tested_by_what_the_client_computes_itself(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await cluster(liars={"stage-1-b": Lies})
    monkeypatch.setattr(Router, "tests", always)
    async with Client.connect(made.folder) as client:  # which holds nothing
        for _ in range(4):
            await client.predict(X)
    assert all(each.newcomer for each in remembered(made).values()), "there is no question that is new to anybody"
    async with Client.connect(made.folder, model=model_of(made)) as client:
        for _ in range(8):
            await client.predict(X)
    found = remembered(made)
    assert {name for name, each in found.items() if each.newcomer} == {"stage-1-b"}
    assert found["stage-1-b"].bad > 10


async def test_a_quorum_of_liars_is_found_out_afterwards(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    liars = [f"stage-1-{letter}" for letter in "abc"]
    made = await cluster(liars=dict.fromkeys(liars, Lies))
    monkeypatch.setattr(Router, "tests", always)
    async with Client.connect(made.folder, model=model_of(made)) as client:
        assert (await client.predict(X)).faults == ()
    found = remembered(made)
    assert all(found[name].bad > 10 and not found[name].good for name in liars)
    assert not any(each.bad for name, each in found.items() if name not in liars)


async def test_who_answers_alone_earns_nothing(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await cluster()
    monkeypatch.setattr(Router, "tests", lambda self, candidates: None)  # a test that was passed would count
    async with Client.connect(made.folder) as client:
        await client.predict(X, Policy(replicas=1, quorum=1, faulty=0))
    assert not any(each.good for each in remembered(made).values())


async def test_parts_after_a_dispute_become_questions_too(cluster: Any) -> None:
    made = await cluster(liars={"stage-0-b": Lies})
    async with Client.connect(made.folder) as client:
        await client.predict(X)
    with Ledger.open(made.folder / "client" / "ledger.sqlite") as ledger:
        known = KnownAnswers(ledger)
        for part, stage in zip(made.anchors.parts, made.stages, strict=True):
            found = known.known(part.name, bytes.fromhex(part.digest), [PeerId("b" * 52)])
            assert found is not None
            with torch.no_grad():
                truth = next(iter(stage.run(found.inputs).values()))
            assert torch.allclose(truth, next(iter(found.output.values())), atol=1e-5)


def test_questions_are_kept_of_the_first_answers_and_then_of_one_in_a_while():
    now = [0.0]
    sparing = Sparing(burst=3, pause=2.0, now=lambda: now[0])
    assert [sparing.may() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 1.9
    assert not sparing.may()
    now[0] = 2.1
    assert [sparing.may() for _ in range(2)] == [True, False]
    now[0] = 1000.0
    assert [sparing.may() for _ in range(5)] == [True, True, True, False, False], "what was saved up has a bound"
