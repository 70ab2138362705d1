"""An answer goes from part to part as a quorum came to it, whoever lies, is silent or dies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from decentral.models.stages import Stage
from decentral.serving.access import access
from decentral.serving.asking.chain import Chain, Course, digest_of
from decentral.serving.asking.replicas import Patience, Replicas
from decentral.serving.stages.stage import StageService
from decentral.trust.evidence import FaultKind, Kind
from decentral.trust.examination import Examination, examine
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.wire.messages import PeerId

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
PLAIN = Policy()
QUICK = Patience(opening=5, commit=5, reveal=1)


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


class Hangs(StageService):
    """Never commits."""

    async def commit(self, sealed: Any, client: Any) -> None:
        await asyncio.sleep(3600)


class Withholds(StageService):
    """Commits, and is silent then."""

    async def reveal(self, sealed: Any, shown: Any, client: Any) -> None:
        await asyncio.sleep(3600)


class Undelivered(StageService):
    """Reveals, and does not send its output."""

    async def deliver(self, outputs: Any, client: Any) -> None:
        await asyncio.sleep(3600)


class Substitutes(StageService):
    """Sends other tensors than it has revealed."""

    async def deliver(self, outputs: Any, client: Any) -> None:
        await super().deliver({name: tensor + 1 for name, tensor in outputs.items()}, client)


FAULTS = {
    Lies: FaultKind.LIED,
    Hangs: FaultKind.UNRESPONSIVE,
    Withholds: FaultKind.UNRESPONSIVE,
    Undelivered: None,
    Substitutes: FaultKind.BROKE_COMMITMENT,
}


class Watching:
    def __init__(self) -> None:
        self.began_: list[PeerId] = []
        self.ended_: list[tuple[PeerId, bool]] = []

    def usual(self, peer: PeerId) -> float | None:
        return None

    def began(self, peer: PeerId) -> None:
        self.began_.append(peer)

    def ended(self, peer: PeerId, seconds: float | None) -> None:
        self.ended_.append((peer, seconds is not None))

    def withdrawn(self, peer: PeerId) -> None:
        raise AssertionError("everybody waits here")


@asynccontextmanager
async def chain(
    cluster: Any, *, model: dict[str, Stage] | None = None, patience: Patience = QUICK
) -> AsyncIterator[Any]:
    async def work(fn: Any) -> Any:
        return await asyncio.to_thread(fn)

    async with access(cluster.folder) as opened:
        watching = Watching()
        replicas = Replicas(opened.links, watching, patience)
        try:
            yield Chain(replicas, opened.anchors, model or {}, work), watching
        finally:
            await replicas.close()


async def order(cluster: Any, policy: Policy = PLAIN, servers: tuple[str, ...] = ("a", "a", "a")) -> Order:
    steps = []
    parts = [part for part in cluster.anchors.parts if part.at == "peers"]
    for part, letter in zip(parts, servers, strict=False):
        peers = {peer.name: peer.id for peer in cluster.anchors.replicas(part.name)}
        server = peers[f"{part.name}-{letter}"]
        steps.append(Step(part.name, bytes.fromhex(part.digest), server, dict.fromkeys(peers.values(), 1.0)))
    digest = await digest_of({parts[0].inputs[0]: X})
    client = cluster.anchors.peers[0].id
    return Order(os.urandom(32), 1, client, int(time.time()), policy, digest, tuple(steps))


async def asked(cluster: Any, policy: Policy = PLAIN, **options: Any) -> tuple[Course, Examination]:
    async with chain(cluster, **options) as (made, _):
        wanted = await order(cluster, policy)
        course = await made.run(wanted, {cluster.anchors.parts[0].inputs[0]: X}, policy)
    return course, examine(course.transcript, cluster.anchors, policy, judgements=course.judgements)


async def test_honest_replicas_answer_what_the_model_says(cluster):
    made = await cluster()
    course, found = await asked(made)
    assert found.verdict.valid, found.verdict.reasons
    assert torch.equal(next(iter(found.output.values())), made.expected(X))
    assert found.faults == ()
    assert [len(exchange.asked) for exchange in course.transcript.exchanges] == [3, 3, 3]
    again = examine(course.transcript, made.anchors, Policy())
    assert again.verdict == found.verdict, "who looks at it later finds the same"


@pytest.mark.parametrize("behaviour", FAULTS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("node", ["stage-0-a", "stage-1-b", "stage-2-a"])
async def test_one_that_misbehaves_is_named_and_the_answer_is_right(cluster, behaviour, node):
    made = await cluster(liars={node: behaviour})
    model = {part.name: stage for part, stage in zip(made.anchors.parts, made.stages, strict=True)}
    patience = replace(QUICK, commit=1.0)
    _, found = await asked(made, model=model, patience=patience)
    assert found.verdict.valid, found.verdict.reasons
    assert torch.equal(next(iter(found.output.values())), made.expected(X))
    delivers = behaviour is not Undelivered and not (behaviour is Substitutes and node.endswith("-b"))
    expected = {(node, FAULTS[behaviour])} if delivers else set()  # what it has signed is right
    assert {(made.node(fault.node), fault.kind) for fault in found.faults} == expected


async def test_who_serves_and_does_not_send_its_output_has_failed(cluster):
    made = await cluster(liars={"stage-0-a": Undelivered})
    async with chain(made) as (one, watching):
        course = await one.run(await order(made), {made.anchors.parts[0].inputs[0]: X}, Policy())
    assert course.judgements[-1].answer is not None, "another one that has the same output sends it"
    assert [made.node(peer) for peer, came in watching.ended_ if not came] == ["stage-0-a"]
    assert [made.node(peer) for peer in course.problems] == ["stage-0-a"]


async def test_without_the_model_one_who_lies_is_outvoted_and_not_called_a_liar(cluster):
    made = await cluster(liars={"stage-1-c": Lies})
    _, found = await asked(made)
    assert torch.equal(next(iter(found.output.values())), made.expected(X))
    assert [(made.node(fault.node), fault.kind) for fault in found.faults] == [("stage-1-c", FaultKind.DISAGREED)]


async def test_where_no_quorum_agrees_there_is_no_answer_and_nobody_after_it_is_asked(cluster):
    made = await cluster(liars={"stage-1-a": Lies, "stage-1-b": Withholds})
    course, found = await asked(made)
    assert not found.verdict.valid
    assert found.output is None
    assert len(course.transcript.exchanges) == 2


async def test_two_colluders_capture_a_part_until_somebody_computes_it_again(cluster):
    made = await cluster(liars={"stage-1-a": Lies, "stage-1-b": Lies})
    _, captured = await asked(made)
    assert captured.verdict.valid
    assert not torch.equal(next(iter(captured.output.values())), made.expected(X))
    _, found = await asked(made, model={"stage-1": made.stages[1]})
    assert not found.verdict.valid
    assert {made.node(fault.node) for fault in found.faults if fault.kind is FaultKind.LIED} == {
        "stage-1-a",
        "stage-1-b",
    }


async def test_the_next_in_the_line_takes_the_place_of_one_that_is_gone(cluster):
    made = await cluster(replicas=4)
    await made.kill("stage-1-a")
    course, found = await asked(made)
    assert found.verdict.valid, found.verdict.reasons
    assert torch.equal(next(iter(found.output.values())), made.expected(X))
    assert [len(exchange.asked) for exchange in course.transcript.exchanges] == [3, 4, 3]
    assert [(made.node(fault.node), fault.kind) for fault in found.faults] == [("stage-1-a", FaultKind.UNRESPONSIVE)]
    assert "stage-1-a" in {made.node(peer) for peer in course.problems}


async def test_a_replica_that_dies_and_comes_back_is_asked_again(cluster):
    made = await cluster()
    async with chain(made) as (one, watching):
        inputs = {made.anchors.parts[0].inputs[0]: X}
        await one.run(await order(made), inputs, Policy())
        await made.kill("stage-0-b")
        course = await one.run(await order(made), inputs, Policy())
        found = examine(course.transcript, made.anchors, Policy(), judgements=course.judgements)
        assert found.verdict.valid
        assert [made.node(fault.node) for fault in found.faults] == ["stage-0-b"]
        assert len(watching.began_) == len(watching.ended_) == 18
        failed = [made.node(peer) for peer, came in watching.ended_ if not came]
        assert failed == ["stage-0-b"]


async def test_who_serves_alone_is_not_audited_where_the_seed_says_so(cluster):
    made = await cluster()
    policy = Policy(audits=0.5)
    sizes = set()
    async with chain(made) as (one, _):
        for _ in range(12):
            course = await one.run(await order(made, policy), {made.anchors.parts[0].inputs[0]: X}, policy)
            found = examine(course.transcript, made.anchors, policy, judgements=course.judgements)
            assert found.verdict.valid, found.verdict.reasons
            sizes |= {len(exchange.asked) for exchange in course.transcript.exchanges}
    assert sizes == {1, 3}


async def test_every_part_is_given_the_bytes_of_one_output_of_the_part_before(cluster):
    made = await cluster()
    course, _ = await asked(made)
    outputs = [judgement.answer.signed.claim.output for judgement in course.judgements]
    assert [exchange.inputs for exchange in course.transcript.exchanges[1:]] == outputs[:-1]
    assert all(finding.passed for finding in (await asked(made))[1].findings if finding.kind is Kind.LINK)


async def test_who_was_asked_in_the_place_of_one_that_was_late_is_held_for_nothing(cluster, monkeypatch):
    """And the answer is valid, though one more was asked than ordered."""
    monkeypatch.setattr("decentral.serving.asking.consultation.SOONEST", 0.5)
    monkeypatch.setattr(Watching, "usual", lambda self, peer: 0.001)
    monkeypatch.setattr(Watching, "withdrawn", lambda self, peer: spared.append(peer))
    spared: list[PeerId] = []
    made, gate = await cluster(replicas=4), asyncio.Event()
    async with asyncio.timeout(60), chain(made, patience=replace(QUICK, commit=600)) as (asking, _):
        wanted = await order(made)
        line = wanted.line(wanted.steps[0])

        async def late(sealed: Any, client: Any) -> None:
            await gate.wait()
            await StageService.commit(slow, sealed, client)

        async def opens(sealed: Any, client: Any) -> None:
            gate.set()
            await asyncio.Event().wait()

        slow, other = made.services[made.node(line[1])], made.services[made.node(line[3])]
        monkeypatch.setattr(slow, "commit", late)
        monkeypatch.setattr(other, "commit", opens)
        course = await asking.run(wanted, {made.anchors.parts[0].inputs[0]: X}, PLAIN)
    found = examine(course.transcript, made.anchors, PLAIN, judgements=course.judgements)
    assert found.verdict.valid, found.verdict.reasons
    assert course.transcript.exchanges[0].asked == tuple(line)
    assert spared == [line[3]]
    assert found.faults == ()
