"""A served stage computes what the stage computes, and gives evidence of it to whom asks for evidence."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from decentral.core.quorum import Sizes
from decentral.errors import Malformed, Refusal, Refused
from decentral.models.stages import Port, Stage
from decentral.serving.stages.stage import StageService
from decentral.training.digest import model_digest
from decentral.trust.consensus import judge
from decentral.trust.evidence import Claim, Question, Reply, SignedClaim, commitment, tensors_digest, together
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Said, Task, Terms
from decentral.wire.identity import Identity
from decentral.wire.sessions import Client

PART, EPOCH = "stage-1", 4


@pytest.fixture
def stage(stages: list[Stage]) -> Stage:
    return stages[1]


@pytest.fixture
def digest(stage: Stage) -> str:
    return model_digest(stage.description, stage.state())


@pytest.fixture
def inputs(stage: Stage) -> dict[str, Tensor]:
    """Of three samples, where the examples were four."""
    generator = torch.Generator().manual_seed(1)
    return {port.name: torch.rand(3, *port.shape[1:], generator=generator) for port in stage.inputs}


async def at_once(fn: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(fn)


def terms(epoch: int = EPOCH) -> Terms:
    return Terms(os.urandom(16), os.urandom(32), epoch)


def serve(stage: Stage, digest: str, **options: Any) -> StageService:
    identity = options.pop("identity", None) or Identity.generate()
    return StageService(stage, PART, digest, identity, at_once, **{"epoch": EPOCH, **options})


async def answer(service: StageService, task: Task) -> Said:
    """What it says first."""
    said: list[Said] = []

    async def say(message: Said) -> None:
        said.append(message)

    await service(task, Client(Identity.generate().id, say))
    return said[0]


async def test_a_task_without_a_question_is_answered_with_what_the_stage_computes(replicas, stage, digest, inputs):
    service = serve(stage, digest)
    (session,) = await replicas((service.identity, service))
    output = await session.ask(Task(PART, bytes.fromhex(digest), inputs), 20.0)
    with torch.no_grad():
        expected = stage.run(inputs)
    assert output.tensors.keys() == expected.keys()
    assert all(torch.equal(output.tensors[name], tensor) for name, tensor in expected.items())


async def test_a_question_is_answered_by_commitment_reveal_and_output_that_fit_together(
    replicas, stage, digest, inputs
):
    service, asked = serve(stage, digest), terms()
    (session,) = await replicas((service.identity, service))
    async with asyncio.timeout(20), session.converse() as conversation:
        await conversation.say(Task(PART, bytes.fromhex(digest), inputs, asked))
        committed = await conversation.hear()
        assert isinstance(committed, Commitment)
        shown = tuple(sorted([committed.digest, bytes(32)]))
        await conversation.say(Open(shown))
        await conversation.say(Fetch())
        revealed, output = await conversation.hear(), await conversation.hear()
    assert isinstance(revealed, Reveal)
    assert isinstance(output, Output)
    assert tensors_digest(output.tensors) == revealed.output
    model = bytes.fromhex(digest)
    question = Question(asked.task, PART, model, tensors_digest(inputs), asked.nonce, EPOCH)
    claim = Claim(question, revealed.output)
    assert commitment(claim, service.identity.id, revealed.salt) == committed.digest
    signed = SignedClaim(revealed.public_key, claim, together(shown), revealed.signature)
    assert signed.signer() == service.identity.id == session.to
    with torch.no_grad():
        assert all(torch.equal(output.tensors[name], tensor) for name, tensor in stage.run(inputs).items())


async def test_equal_answers_have_commitments_that_tell_nothing_of_each_other(stage, digest, inputs):
    service = serve(stage, digest)

    async def committed(asked: Terms) -> bytes:
        said: asyncio.Queue[Said] = asyncio.Queue()
        task = Task(PART, bytes.fromhex(digest), inputs, asked)
        running = asyncio.ensure_future(service(task, Client(Identity.generate().id, said.put)))
        heard = await said.get()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert isinstance(heard, Commitment)
        return heard.digest

    asked = terms()
    assert await committed(asked) != await committed(asked)


async def test_while_one_answer_waits_for_its_client_others_are_computed(replicas, stage, digest, inputs):
    service = serve(stage, digest)
    (session,) = await replicas((service.identity, service))
    async with asyncio.timeout(20), session.converse() as first, session.converse() as second:
        for conversation in (first, second):
            await conversation.say(Task(PART, bytes.fromhex(digest), inputs, terms()))
            assert isinstance(await conversation.hear(), Commitment)
        await session.ask(Task(PART, bytes.fromhex(digest), inputs), 20.0)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([Open((bytes(32),))], Refusal.MALFORMED),
        ([Fetch()], Refusal.MALFORMED),
        (["open", "open"], Refusal.MALFORMED),
        ([], Refusal.STALE),
        (["open"], Refusal.STALE),
    ],
    ids=["its own commitment is not shown", "fetched too early", "shown twice", "never shown", "never fetched"],
)
async def test_a_client_that_breaks_the_rules_is_refused(replicas, stage, digest, inputs, said, reason):
    service = serve(stage, digest, patience=0.3)
    (session,) = await replicas((service.identity, service))
    with pytest.raises(Refused) as refused:
        async with asyncio.timeout(20), session.converse() as conversation:
            await conversation.say(Task(PART, bytes.fromhex(digest), inputs, terms()))
            committed = await conversation.hear()
            assert isinstance(committed, Commitment)
            for message in said:
                await conversation.say(Open((committed.digest,)) if message == "open" else message)
            while True:
                assert isinstance(await conversation.hear(), Reveal)
    assert refused.value.reason is reason


async def test_answers_that_wait_are_bounded_and_make_room_when_their_clients_leave(replicas, stage, digest, inputs):
    size = sum(tensor.nbytes for tensor in stage.run(inputs).values())
    service = serve(stage, digest, held=size)
    (session,) = await replicas((service.identity, service))

    async def committed() -> None:
        """Leaves again once it is."""
        async with session.converse() as conversation:
            await conversation.say(Task(PART, bytes.fromhex(digest), inputs, terms()))
            assert isinstance(await conversation.hear(), Commitment)

    async with asyncio.timeout(20):
        async with session.converse() as conversation:
            await conversation.say(Task(PART, bytes.fromhex(digest), inputs, terms()))
            assert isinstance(await conversation.hear(), Commitment)
            with pytest.raises(Refused) as refused:
                await committed()
            assert refused.value.reason is Refusal.BUSY
        while True:
            try:
                await committed()
            except Refused:  # until the goodbye has come
                await asyncio.sleep(0.01)
            else:
                break


async def test_for_a_client_that_is_gone_nothing_is_computed(replicas, stage, digest, inputs):
    gate, later, computed = asyncio.Event(), asyncio.Event(), 0

    async def work(fn: Callable[[], Any]) -> Any:
        nonlocal computed
        await gate.wait()
        computed += 1
        return fn()

    service = StageService(stage, PART, digest, Identity.generate(), work, epoch=EPOCH)

    async def watched(task: Task, client: Client) -> None:
        if task.terms is None:
            later.set()
        await service(task, client)

    (session,) = await replicas((service.identity, watched))
    task = Task(PART, bytes.fromhex(digest), inputs)
    async with asyncio.timeout(20):
        async with session.converse() as conversation:
            await conversation.say(replace(task, terms=terms()))
        asked = asyncio.ensure_future(session.ask(task, 20.0))
        await later.wait()  # the goodbye came before it
        gate.set()
        await asked
    assert computed == 1


async def test_three_honest_replicas_agree_bit_by_bit(replicas, stage, digest, inputs):
    services = [serve(stage, digest) for _ in range(3)]
    sessions = await replicas(*((service.identity, service) for service in services))
    asked = terms()
    async with asyncio.timeout(20):
        async with sessions[0].converse() as a, sessions[1].converse() as b, sessions[2].converse() as c:
            commitments = {}
            for session, conversation in zip(sessions, (a, b, c), strict=True):
                await conversation.say(Task(PART, bytes.fromhex(digest), inputs, asked))
                committed = await conversation.hear()
                assert isinstance(committed, Commitment)
                commitments[session.to] = committed.digest
            replies = {}
            for session, conversation in zip(sessions, (a, b, c), strict=True):
                await conversation.say(Open(tuple(sorted(commitments.values()))))
                await conversation.say(Fetch())
                revealed, output = await conversation.hear(), await conversation.hear()
                assert isinstance(revealed, Reveal)
                assert isinstance(output, Output)
                replies[session.to] = Reply(commitments[session.to], revealed, output.tensors)
    question = Question(asked.task, PART, bytes.fromhex(digest), tensors_digest(inputs), asked.nonce, EPOCH)
    judgement = judge(question, list(replies), replies, Sizes(3, 1, 3), 0.0, exact=True)
    assert judgement.answer is not None
    assert judgement.faults == ()


async def test_another_part_and_another_digest_are_refused(stage, digest, inputs):
    for part, named in (("stage-2", digest), (PART, "00" * 32)):
        with pytest.raises(Malformed) as refused:
            await answer(serve(stage, digest), Task(part, bytes.fromhex(named), inputs))
        assert refused.value.reason is Refusal.MODEL


async def test_a_question_of_another_epoch_is_refused(stage, digest, inputs):
    for epoch in (EPOCH - 1, EPOCH + 1):
        with pytest.raises(Malformed) as refused:
            await answer(serve(stage, digest), Task(PART, bytes.fromhex(digest), inputs, terms(epoch)))
        assert refused.value.reason is Refusal.STALE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: {}, Refusal.SCHEMA),
        (lambda x: {"other": x}, Refusal.SCHEMA),
        (lambda x: {"x": x.double()}, Refusal.SCHEMA),
        (lambda x: {"x": x[:, :5]}, Refusal.SCHEMA),
        (lambda x: {"x": x[0]}, Refusal.SCHEMA),
        (lambda x: {"x": x[None]}, Refusal.SCHEMA),
        (lambda x: {"x": x[:0]}, Refusal.SCHEMA),
        (lambda x: {"x": x, "y": x}, Refusal.SCHEMA),
        (lambda x: {"x": x.repeat(3, 1)}, Refusal.TOO_LARGE),
        (lambda x: {"x": x * torch.nan}, Refusal.MALFORMED),
        (lambda x: {"x": x / 0}, Refusal.MALFORMED),
    ],
    ids=["none", "name", "type", "shape", "no batch", "two batches", "empty", "more", "samples", "nan", "infinite"],
)
async def test_what_the_stage_cannot_take_is_refused(stage, digest, inputs, change, reason):
    ((name, x),) = inputs.items()
    given = {name if key == "x" else key: tensor for key, tensor in change(x).items()}
    for asked in (None, terms()):
        with pytest.raises(Malformed) as refused:
            await answer(serve(stage, digest, most=8), Task(PART, bytes.fromhex(digest), given, asked))
        assert refused.value.reason is reason


async def test_numbers_whose_sum_is_too_large_are_finite_all_the_same(stage, digest, inputs):
    large = {name: torch.full_like(tensor, 3e38) for name, tensor in inputs.items()}
    assert isinstance(await answer(serve(stage, digest), Task(PART, bytes.fromhex(digest), large)), Output)


async def test_sizes_that_only_the_computation_finds_wrong_are_refused_too():
    class Adding(torch.nn.Module):
        inputs = (Port("a", torch.float32, (4, 2)), Port("b", torch.float32, (4, 2)))

        def run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"output": tensors["a"] + tensors["b"]}

    service = serve(Adding(), "00" * 32)  # type: ignore[arg-type]
    one = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    assert isinstance(await answer(service, Task(PART, bytes(32), one)), Output)
    with pytest.raises(Malformed) as refused:
        await answer(service, Task(PART, bytes(32), {"a": torch.ones(2, 2), "b": torch.ones(3, 2)}))
    assert refused.value.reason is Refusal.SCHEMA


@pytest.mark.gpu
async def test_a_stage_on_an_accelerator_answers_from_the_cpu(stage, digest, inputs):
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    import copy

    there = copy.deepcopy(stage).to("cuda")
    output = await answer(serve(there, digest, device="cuda"), Task(PART, bytes.fromhex(digest), inputs))
    assert isinstance(output, Output)
    for name, tensor in stage.run(inputs).items():
        assert output.tensors[name].device.type == "cpu"
        assert torch.allclose(output.tensors[name], tensor, atol=1e-3)


class Where(StageService):
    """Writes down in which thread it computes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.threads: list[int] = []

    def answer(self, inputs: Any, client: Any) -> dict[str, Tensor]:
        self.threads.append(threading.get_ident())
        return super().answer(inputs, client)


def where(stage: Stage, digest: str) -> Where:
    return Where(stage, PART, digest, Identity.generate(), at_once, epoch=EPOCH)


async def test_what_was_quick_is_computed_where_it_comes_in_with_the_same_bits(stage, digest, inputs, monkeypatch):
    monkeypatch.setattr("decentral.serving.stages.stage.QUICK", 1e9)
    service, here = where(stage, digest), threading.get_ident()
    tasks = [Task(PART, bytes.fromhex(digest), {name: x[:n] for name, x in inputs.items()}) for n in (2, 2, 1, 3, 3)]
    answers = [await answer(service, task) for task in tasks]
    assert [thread == here for thread in service.threads] == [False, True, True, False, True], "a larger one is new"
    for one, other in ((0, 1), (3, 4)):
        assert isinstance(first := answers[one], Output)
        assert isinstance(again := answers[other], Output)
        assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)


async def test_what_takes_a_while_leaves_the_event_loop_and_a_refusal_says_nothing_of_it(
    stage, digest, inputs, monkeypatch
):
    service, here = where(stage, digest), threading.get_ident()
    task = Task(PART, bytes.fromhex(digest), inputs)
    refused = replace(task, tensors={name: torch.full_like(x, torch.inf) for name, x in inputs.items()})
    monkeypatch.setattr("decentral.serving.stages.stage.QUICK", 1e9)
    with pytest.raises(Malformed, match="not finite"):
        await answer(service, refused)
    monkeypatch.setattr("decentral.serving.stages.stage.QUICK", -1.0)
    for _ in range(3):
        await answer(service, task)
    assert here not in service.threads


async def test_one_task_is_not_computed_after_all_of_another_clients(stage, digest, inputs):
    order: list[str] = []

    class Noting(StageService):
        def answer(self, inputs: Any, client: Any) -> dict[str, Tensor]:
            order.append(client.sender)
            return super().answer(inputs, client)

    worker = asyncio.Lock()

    async def work(fn: Callable[[], Any]) -> Any:
        async with worker:
            return await asyncio.to_thread(fn)

    async def nobody_hears(said: Said) -> None:
        return

    service = Noting(stage, PART, digest, Identity.generate(), work, epoch=EPOCH)
    service._work._device = torch.device("meta")  # nothing is quick
    many, one = (Client(Identity.generate().id, nobody_hears) for _ in range(2))
    task = Task(PART, bytes.fromhex(digest), inputs)
    await asyncio.gather(*(service(task, many) for _ in range(20)), service(task, one))
    assert order.index(one.sender) <= 2


async def test_two_are_never_computed_at_once(stage, digest, inputs, monkeypatch):
    monkeypatch.setattr("decentral.serving.stages.stage.QUICK", 1e9)
    going, most = 0, 0

    class Counting(StageService):
        def answer(self, inputs: Any, client: Any) -> dict[str, Tensor]:
            nonlocal going, most
            going, most = going + 1, max(most, going + 1)
            found = super().answer(inputs, client)
            time.sleep(0.001)
            going -= 1
            return found

    service = Counting(stage, PART, digest, Identity.generate(), at_once, epoch=EPOCH)
    tasks = [Task(PART, bytes.fromhex(digest), {name: x[: 1 + n % 3] for name, x in inputs.items()}) for n in range(30)]
    assert all(isinstance(said, Output) for said in await asyncio.gather(*(answer(service, task) for task in tasks)))
    assert most == 1
