"""Every adversary does what it says, a client finds the fault that it earns, and nobody honest is blamed with it.

Three replicas over mutual TLS, one of them the adversary, and two clients, one after the other: some adversaries are
honest to the first. This file has the replicas' side; how the client of the project asks is told in its own tests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from decentral.core.agreement import distance
from decentral.core.quorum import Sizes
from decentral.errors import TransportError
from decentral.models.stages import Stage
from decentral.serving.adversaries.catalogue import BEHAVIOURS, OF_PROOFS
from decentral.serving.stages.stage import StageService
from decentral.training.digest import model_digest
from decentral.trust.consensus import Judgement, equivocation, judge
from decentral.trust.evidence import Claim, FaultKind, Question, Reply, SignedClaim, tensors_digest, together
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Task, Terms
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Conversation, Session

PART, EPOCH, TOLERANCE = "stage-1", 4, 1e-4
SIZES = Sizes(3, 1, 2)
OPTIONS: dict[str, dict[str, Any]] = {"drift": {"tolerance": TOLERANCE}, "defection": {"honest": 1}}

Start = Callable[..., Awaitable[tuple[Session, ...]]]


@pytest.fixture
def digest(stages: list[Stage]) -> str:
    return model_digest(stages[1].description, stages[1].state())


@pytest.fixture
def inputs(stages: list[Stage]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {port.name: torch.rand(3, *port.shape[1:], generator=generator) for port in stages[1].inputs}


@pytest.fixture
def right(stages: list[Stage], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return stages[1].run(inputs)


async def at_once(fn: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(fn)


def made(stage: Stage, digest: str, behaviour: str | None = None, **options: Any) -> Any:
    kind = StageService if behaviour is None else BEHAVIOURS.resolve(behaviour)
    return kind(stage, PART, digest, Identity.generate(), at_once, epoch=EPOCH, **options)


async def ask(
    sessions: Sequence[Session], digest: str, inputs: dict[str, Tensor], patience: dict[PeerId, float]
) -> tuple[Question, bytes, dict[PeerId, Reply]]:
    """One task for all replicas, each with its patience in seconds: the question, all commitments, and what came."""
    terms, model = Terms(os.urandom(16), os.urandom(32), EPOCH), bytes.fromhex(digest)
    question = Question(terms.task, PART, model, tensors_digest(inputs), terms.nonce, EPOCH)
    replies = {session.to: Reply() for session in sessions}
    talks: dict[PeerId, Conversation] = {}

    async def commit(session: Session, conversation: Conversation) -> None:
        try:
            async with asyncio.timeout(patience[session.to]):
                await conversation.say(Task(PART, model, inputs, terms))
                heard = await conversation.hear()
        except (TimeoutError, TransportError):
            return
        assert isinstance(heard, Commitment)
        talks[session.to], replies[session.to] = conversation, Reply(heard.digest)

    async def reveal(peer: PeerId, conversation: Conversation, shown: Open) -> None:
        try:
            async with asyncio.timeout(patience[peer]):
                await conversation.say(shown)
                await conversation.say(Fetch())
                revealed = await conversation.hear()
                assert isinstance(revealed, Reveal)
                replies[peer] = Reply(replies[peer].commitment, revealed)
                output = await conversation.hear()
                assert isinstance(output, Output)
                replies[peer] = Reply(replies[peer].commitment, revealed, output.tensors)
        except (TimeoutError, TransportError):
            return

    async with AsyncExitStack() as stack:
        begun = [(session, await stack.enter_async_context(session.converse())) for session in sessions]
        await asyncio.gather(*(commit(session, conversation) for session, conversation in begun))
        commitments = {reply.commitment for reply in replies.values() if reply.commitment is not None}
        shown = Open(tuple(sorted(commitments)))
        await asyncio.gather(*(reveal(peer, conversation, shown) for peer, conversation in talks.items()))
    return question, together(shown.commitments), replies


def judged(question: Question, replies: dict[PeerId, Reply], reference: dict[str, Tensor] | None = None) -> Judgement:
    return judge(question, list(replies), replies, SIZES, TOLERANCE, reference=reference)


async def twice(
    replicas: Start, services: Sequence[Any], digest: str, inputs: dict[str, Tensor]
) -> list[tuple[Question, bytes, dict[PeerId, Reply]]]:
    """Two clients, one after the other. The silent are given little time, all others as much as they want."""
    silent = {FaultKind.UNRESPONSIVE}
    patience = {each.identity.id: 0.5 if getattr(each, "earns", None) in silent else 20.0 for each in services}
    asked = []
    for _ in range(2):
        sessions = await replicas(*((each.identity, each) for each in services))
        asked.append(await ask(sessions, digest, inputs, patience))
    return asked


@pytest.mark.parametrize("behaviour", sorted(set(BEHAVIOURS.names()) - set(OF_PROOFS)))
async def test_an_adversary_earns_its_fault_and_nobody_else_is_blamed(
    replicas: Start, stages: list[Stage], digest: str, inputs: Any, right: Any, behaviour: str
) -> None:
    liar = made(stages[1], digest, behaviour, **OPTIONS.get(behaviour, {}))
    services = [made(stages[1], digest), liar, made(stages[1], digest)]
    (first, shown_first, to_first), (second, shown, to_second) = await twice(replicas, services, digest, inputs)
    judgement = judged(second, to_second)
    assert judgement.answer is not None, "two honest replicas are a quorum"
    assert distance(judgement.answer.tensors, right) <= TOLERANCE
    if liar.earns is FaultKind.EQUIVOCATED:
        assert judged(first, to_first).faults == ()
        signed = []
        for question, together_, replies in ((first, shown_first, to_first), (second, shown, to_second)):
            reveal = replies[liar.identity.id].reveal
            assert reveal is not None
            claim = Claim(question, reveal.output)
            signed.append(SignedClaim(reveal.public_key, claim, together_, reveal.signature))
        one, other = to_first[liar.identity.id].tensors, to_second[liar.identity.id].tensors
        assert one is not None
        assert other is not None
        fault = equivocation(*signed, distance(one, other), TOLERANCE)
        assert fault is not None
        assert (fault.node, fault.kind) == (liar.identity.id, liar.earns)
    else:
        expected = [] if liar.earns is None else [(liar.identity.id, liar.earns)]
        assert [(fault.node, fault.kind) for fault in judgement.faults] == expected
    again = judged(second, to_second, right)
    if liar.earns in (FaultKind.DISAGREED, FaultKind.EQUIVOCATED):  # computed again, it is proven
        assert [(fault.node, fault.kind) for fault in again.faults] == [(liar.identity.id, FaultKind.LIED)]
    else:
        assert [fault.kind for fault in again.faults] == [fault.kind for fault in judgement.faults]


@pytest.mark.parametrize("behaviour", ["replayed-evidence", "defection", "copied-commitment", "equivocation"])
async def test_some_are_honest_at_first(
    replicas: Start, stages: list[Stage], digest: str, inputs: Any, behaviour: str
) -> None:
    liar = made(stages[1], digest, behaviour, **OPTIONS.get(behaviour, {}))
    services = [made(stages[1], digest), liar, made(stages[1], digest)]
    (first, _, replies), _ = await twice(replicas, services, digest, inputs)
    assert judged(first, replies).faults == ()


async def test_a_commitment_copied_within_a_task_opens_to_nothing_either(
    replicas: Start, stages: list[Stage], digest: str, inputs: Any
) -> None:
    honest, liar = made(stages[1], digest), made(stages[1], digest, "copied-commitment")
    sessions = await replicas((honest.identity, honest), (liar.identity, liar))
    terms, model = Terms(os.urandom(16), os.urandom(32), EPOCH), bytes.fromhex(digest)
    async with asyncio.timeout(20), sessions[0].converse() as a, sessions[1].converse() as b:
        await a.say(Task(PART, model, inputs, terms))
        heard = await a.hear()
        assert isinstance(heard, Commitment)
        liar.overheard = heard.digest
        await b.say(Task(PART, model, inputs, terms))
        assert await b.hear() == heard, "it has the same commitment"
        replies = {}
        for session, conversation in zip(sessions, (a, b), strict=True):
            await conversation.say(Open((heard.digest,)))
            await conversation.say(Fetch())
            revealed, output = await conversation.hear(), await conversation.hear()
            assert isinstance(revealed, Reveal)
            assert isinstance(output, Output)
            replies[session.to] = Reply(heard.digest, revealed, output.tensors)
    question = Question(terms.task, PART, model, tensors_digest(inputs), terms.nonce, EPOCH)
    faults = judged(question, replies).faults
    assert [(fault.node, fault.kind) for fault in faults] == [(liar.identity.id, FaultKind.BROKE_COMMITMENT)]


async def test_more_than_f_who_collude_are_believed_until_somebody_computes_it_again(
    replicas: Start, stages: list[Stage], digest: str, inputs: Any, right: Any
) -> None:
    liars = [made(stages[1], digest, "wrong-output", seed=5) for _ in range(2)]
    honest = made(stages[1], digest)
    (question, _, replies), _ = await twice(replicas, [honest, *liars], digest, inputs)
    believed = judged(question, replies)
    assert believed.answer is not None
    assert believed.answer.node != honest.identity.id
    assert [fault.node for fault in believed.faults] == [honest.identity.id]
    again = judged(question, replies, right)
    assert again.answer is None
    assert {(fault.node, fault.kind) for fault in again.faults} == {
        (liar.identity.id, FaultKind.LIED) for liar in liars
    }


async def test_liars_who_do_not_collude_do_not_agree(
    replicas: Start, stages: list[Stage], digest: str, inputs: Any
) -> None:
    services = [made(stages[1], digest, "wrong-output") for _ in range(2)]
    (question, _, replies), _ = await twice(replicas, [made(stages[1], digest), *services], digest, inputs)
    assert judged(question, replies).answer is None
