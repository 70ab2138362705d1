"""A node that has circuits proves what it is asked about, one sample at a time, and refuses what it cannot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from decentral.errors import Malformed, Refusal, Refused
from decentral.serving.stages.proved import Either, ProvedService, Prover
from decentral.serving.stages.stage import StageService
from decentral.serving.stages.twin import quantised
from decentral.trust.evidence import Question, tensors_digest
from decentral.trust.proofs import Integers, Proofs, check_part, samples
from decentral.wire.conversation import Output, Proof, Prove, Said, Task, Terms
from decentral.wire.identity import Identity
from decentral.wire.sessions import Client
from decentral.zk.proof import Proof as SampleProof
from tests.serving.proved import Material, X, inline, session_with

PART, EPOCH = "stage-0", 4
TERMS = Terms(bytes(16), bytes(32), EPOCH)
WHOLE = {"x": quantised(X[:1], 7)}


def both(made: Material, prover: Prover | None = None) -> Either:
    twin, identity = made.twin(0), Identity.generate()
    plain = StageService(made.stages[0], PART, "ab" * 32, identity, inline, epoch=EPOCH)
    proved = ProvedService(twin, PART, twin.digest, identity, inline, epoch=EPOCH, prover=prover or made.prover(0))
    return Either(plain, proved)


def task(made: Material, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Task:
    whole = Task(PART, made.chain.circuits[0].identity, tensors or WHOLE, TERMS, Prove())
    return replace(whole, **changes)


async def heard(service: Either, asked: Task, client: Identity | None = None) -> list[Said]:
    said: list[Said] = []

    async def say(message: Said) -> None:
        said.append(message)

    await service(asked, Client((client or Identity.generate()).id, say))
    return said


async def test_what_is_proved_are_the_numbers_that_the_twin_comes_to_for_this_question(
    proved_material: Material, authority: Any, certify: Any
) -> None:
    service = both(proved_material)
    digest = proved_material.chain.circuits[0].identity
    async with session_with(service, authority, certify) as session, asyncio.timeout(60):
        answer = await session.ask(Task(PART, digest, WHOLE), 20.0)
        async with session.converse() as conversation:
            await conversation.say(task(proved_material, prove=Prove(srs=True)))
            proof = await conversation.hear()
    assert isinstance(proof, Proof)
    own = Proofs.decode(proof.evidence)
    assert own.circuit == proved_material.chain.circuits[0]
    assert own.srs == proved_material.srs.path.read_bytes()
    question = Question(TERMS.task, PART, digest, tensors_digest(WHOLE), TERMS.nonce, EPOCH)
    twin, node = proved_material.twin(0), service.plain.identity.id
    taken = samples(WHOLE, ["x"])
    given = samples(answer.tensors, [port.name for port in twin.outputs])
    assert all(torch.equal(answer.tensors[name], tensor) for name, tensor in twin.run(WHOLE).items())
    assert await check_part(own, question, node, taken, given) is None
    for what, problem in (
        (check_part(own, replace(question, task=os.urandom(16)), node, taken, given), "stale"),
        (check_part(own, replace(question, model=bytes(32)), node, taken, given), "foreign"),
        (check_part(own, question, Identity.generate().id, taken, given), "signed by another peer"),
        (check_part(own, question, node, taken * 2, given * 2), "missing: there are 1 proofs of 2 samples"),
        (check_part(replace(own, srs=own.srs + b"1"), question, node, taken, given), "foreign: the SRS"),
        (check_part(own, question, node, taken, given[::-1] if len(given) > 1 else ((given[0][1], given[0][0]),)),
         "proof 0 is about another output"),
    ):  # fmt: skip
        said = await what
        assert said is not None
        assert problem in said


async def test_one_node_answers_in_floats_and_in_whole_numbers(proved_material: Material) -> None:
    service = both(proved_material)
    plain = await heard(service, Task(PART, bytes.fromhex("ab" * 32), {"x": X}))
    whole = await heard(service, task(proved_material, {"x": quantised(X, 7)}, terms=None, prove=None))
    for said, dtype in ((plain, torch.float32), (whole, torch.int64)):
        assert isinstance(said[0], Output)
        assert {tensor.dtype for tensor in said[0].tensors.values()} == {dtype}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": bytes(32)}, Refusal.MODEL),
        ({"digest": bytes.fromhex("ab" * 32), "tensors": {"x": X}}, Refusal.UNSPECIFIED),
        ({"part": "stage-1"}, Refusal.MODEL),
        ({"terms": None}, Refusal.MALFORMED),
        ({"terms": replace(TERMS, epoch=EPOCH + 1)}, Refusal.STALE),
        ({"tensors": {"x": X}}, Refusal.SCHEMA),
        ({"tensors": {"x": torch.zeros(65, 4, dtype=torch.int64)}}, Refusal.TOO_LARGE),
        ({"tensors": {"x": torch.full((1, 4), 1 << 50)}}, Refusal.SCHEMA),
    ],
    ids=["digest", "floats are not proved", "part", "no question", "epoch", "dtype", "samples", "range"],
)
async def test_what_cannot_be_proved_is_refused(proved_material: Material, change: Any, reason: Refusal) -> None:
    with pytest.raises(Malformed) as refused:
        await heard(both(proved_material), task(proved_material, **change))
    assert refused.value.reason is reason


async def test_samples_of_different_numbers_are_refused(proved_material: Material) -> None:
    twin, identity = proved_material.twin(1), Identity.generate()
    service = ProvedService(
        twin, "stage-1", twin.digest, identity, inline, epoch=EPOCH, prover=proved_material.prover(1)
    )
    one, other = (port.name for port in twin.inputs)
    tensors = {one: torch.zeros(2, 3, dtype=torch.int64), other: torch.zeros(1, 3, dtype=torch.int64)}
    asked = Task("stage-1", bytes.fromhex(twin.digest), tensors, TERMS, Prove())
    with pytest.raises(Malformed, match="as many samples") as refused:
        await service(asked, Client(identity.id, heard))  # type: ignore[arg-type]
    assert refused.value.reason is Refusal.SCHEMA


class Counted(Prover):
    """Proves nothing; says how many it is at."""

    def __init__(self, made: Material, **options: Any) -> None:
        super().__init__(made.artefacts[0], made.srs, **options)
        self.gate, self.at_it, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.going = self.most = 0
        self.order: list[int] = []

    async def _prove(self, sample: Integers) -> SampleProof:
        self.going += 1
        self.most = max(self.most, self.going)
        self.at_it.set()
        try:
            await self.gate.wait()
            self.order.append(sample[0][0])
            return SampleProof((), b"proof")
        finally:
            self.going -= 1
            self.left.set()


def numbered(first: int, count: int) -> Sequence[Integers]:
    return [((number,),) for number in range(first, first + count)]


async def test_one_sample_is_proved_at_a_time_and_clients_take_turns(proved_material: Material) -> None:
    prover = Counted(proved_material)
    one, other = Identity.generate().id, Identity.generate().id
    many = asyncio.create_task(prover.prove(numbered(0, 10), one))
    await asyncio.sleep(0)
    few = asyncio.create_task(prover.prove(numbered(100, 1), other))
    await asyncio.sleep(0)
    prover.gate.set()
    assert (len(await many), len(await few)) == (10, 1)
    assert prover.most == 1
    assert prover.order.index(100) <= 1, "it does not wait for all that another has asked for"


async def test_what_would_wait_too_long_is_refused_and_room_comes_back(proved_material: Material) -> None:
    prover = Counted(proved_material, waiting=4)
    client = Identity.generate().id
    with pytest.raises(Malformed) as refused:
        await prover.prove(numbered(0, 5), client)
    assert refused.value.reason is Refusal.BUSY
    waiting = asyncio.create_task(prover.prove(numbered(0, 4), client))
    await asyncio.sleep(0)
    with pytest.raises(Malformed) as refused:
        await prover.prove(numbered(0, 1), Identity.generate().id)
    assert refused.value.reason is Refusal.BUSY
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    prover.gate.set()
    assert len(await prover.prove(numbered(0, 4), client)) == 4


async def test_for_a_client_that_is_gone_nothing_is_proved(
    proved_material: Material, authority: Any, certify: Any
) -> None:
    prover = Counted(proved_material)
    async with session_with(both(proved_material, prover), authority, certify) as session, asyncio.timeout(20):
        async with session.converse() as conversation:
            await conversation.say(task(proved_material))
            await prover.at_it.wait()
        await prover.left.wait()
    assert prover.order == []


async def test_a_prover_that_is_busy_says_so_over_the_wire(
    proved_material: Material, authority: Any, certify: Any
) -> None:
    service = both(proved_material, Counted(proved_material, waiting=0))
    async with session_with(service, authority, certify) as session, asyncio.timeout(20):
        with pytest.raises(Refused) as refused:
            async with session.converse() as conversation:
                await conversation.say(task(proved_material))
                await conversation.hear()
    assert refused.value.reason is Refusal.BUSY
