"""All commit before anybody reveals; who does not is replaced; an output is sent once for all who came to it."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from decentral.errors import Malformed, Refusal
from decentral.serving.access import access
from decentral.serving.asking import consultation
from decentral.serving.asking.consultation import Consultation, consult
from decentral.serving.asking.replicas import Patience, Replicas
from decentral.serving.stages.stage import StageService
from decentral.trust.evidence import tensors_digest
from decentral.trust.examination import judged
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.limits import Limits
from decentral.wire.sessions import open_session

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
PLAIN, EQUAL = Policy(), 1.0


class Watching:
    def __init__(self) -> None:
        self.began_: list[str] = []
        self.ended_: dict[str, float | None] = {}
        self.withdrawn_: list[str] = []
        self.all_began = asyncio.Event()
        self.usually: float | None = None

    def usual(self, peer: str) -> float | None:
        return self.usually

    def began(self, peer: str) -> None:
        self.began_.append(peer)
        if len(self.began_) == 3:
            self.all_began.set()

    def ended(self, peer: str, seconds: float | None) -> None:
        self.ended_[peer] = seconds

    def withdrawn(self, peer: str) -> None:
        self.withdrawn_.append(peer)


class Telling(StageService):
    """Writes down what it is told and what it says, in one list for all."""

    log: ClassVar[list[tuple[str, str]]] = []

    async def commit(self, sealed: Any, client: Any) -> None:
        self.log.append(("commit", self.identity.id))
        await super().commit(sealed, client)

    async def reveal(self, sealed: Any, shown: Any, client: Any) -> None:
        self.log.append(("reveal", self.identity.id))
        await super().reveal(sealed, shown, client)

    async def deliver(self, outputs: Any, client: Any) -> None:
        self.log.append(("deliver", self.identity.id))
        await super().deliver(outputs, client)


class Refuses(StageService):
    """Will not do what it is given."""

    async def __call__(self, task: Any, client: Any) -> None:
        raise Malformed(Refusal.SCHEMA, "not this\x1b[31m")


class Repeats(StageService):
    """Commits again instead of revealing."""

    async def reveal(self, sealed: Any, shown: Any, client: Any) -> None:
        await self.commit(sealed, client)


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


class Busy(StageService):
    """Has too much to do, the first two times."""

    times = 0

    async def __call__(self, task: Any, client: Any) -> None:
        self.times += 1
        if self.times <= 2:
            raise Malformed(Refusal.BUSY, "come again")
        await super().__call__(task, client)


def order_for(cluster: Any, policy: Policy = PLAIN, server: str = "stage-0-a") -> tuple[Order, dict[str, Any]]:
    part = cluster.anchors.parts[0]
    peers = {peer.name: peer.id for peer in cluster.anchors.replicas(part.name)}
    step = Step(part.name, bytes.fromhex(part.digest), peers[server], dict.fromkeys(peers.values(), EQUAL))
    inputs = {part.inputs[0]: X}
    made = Order(os.urandom(32), 1, peers[server], int(time.time()), policy, tensors_digest(inputs), (step,))
    return made, inputs


@asynccontextmanager
async def asking(cluster: Any, watch: Watching, patience: Patience):
    async with access(cluster.folder) as opened:
        replicas = Replicas(opened.links, watch, patience)
        try:

            async def ask(order: Order, inputs: Any) -> Consultation:
                return await consult(order, order.steps[0], inputs, order.inputs, replicas)

            yield ask
        finally:
            await replicas.close()


def verdict_of(order: Order, found: Consultation, cluster: Any) -> str | None:
    """Why a verifier does not take this part's consensus for one."""
    exchange = Exchange(order.steps[0], order.inputs, found.asked, found.replies)
    finding = judged(Transcript(order, (exchange,)), 0, cluster.anchors, order.policy).finding
    return None if finding.passed else finding.detail


QUICK = Patience(opening=5, commit=3, reveal=1)


async def test_nobody_reveals_before_all_have_committed_and_one_delivers(cluster):
    Telling.log = []
    made = await cluster(liars={f"stage-0-{letter}": Telling for letter in "abc"})
    watch = Watching()
    async with asking(made, watch, QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    said = [what for what, _ in Telling.log]
    assert said[:3] == ["commit"] * 3
    assert sorted(said[3:]) == ["deliver", "reveal", "reveal", "reveal"]
    assert ("deliver", order.line(order.steps[0])[0]) in Telling.log
    assert list(found.asked) == order.line(order.steps[0])[:3]
    assert all(reply.commitment and reply.reveal for reply in found.replies.values())
    assert [reply.tensors is not None for reply in found.replies.values()].count(True) == 1
    assert set(watch.began_) == set(found.asked)
    assert all(seconds is not None and seconds > 0 for seconds in watch.ended_.values())


async def test_who_is_busy_is_asked_again(cluster):
    made = await cluster(liars={"stage-0-b": Busy})
    async with asking(made, Watching(), QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    assert len(found.asked) == 3
    assert found.problems == {}
    assert made.services["stage-0-b"].times == 3


class AlwaysBusy(StageService):
    """Has too much to do, whenever it is asked."""

    async def __call__(self, task: Any, client: Any) -> None:
        raise Malformed(Refusal.BUSY, "come again")


async def test_who_is_busy_until_the_deadline_is_called_busy_and_replaced(cluster):
    made = await cluster(replicas=4, liars={"stage-0-a": AlwaysBusy})
    async with asking(made, Watching(), replace(QUICK, commit=1)) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    assert {made.node(peer) for peer in found.busy} == {"stage-0-a"} == {made.node(peer) for peer in found.problems}
    assert "busy" in next(iter(found.problems.values()))
    assert len(found.asked) == 4
    assert len(found.replies) == 3


async def test_who_was_busy_and_then_commits_is_not_called_so(cluster):
    made = await cluster(liars={"stage-0-b": Busy})
    async with asking(made, Watching(), QUICK) as ask:
        order, inputs = order_for(made)
        assert (await ask(order, inputs)).busy == frozenset()


async def test_who_has_too_many_sessions_already_is_asked_again(cluster):
    made = await cluster()
    peer = next(anchor.id for anchor in made.anchors.peers if anchor.name == "stage-0-b")
    most = Limits().calls
    async with access(made.folder) as opened, AsyncExitStack() as stack:
        for _ in range(most):
            await stack.enter_async_context(open_session(opened.links, peer))
        replicas = Replicas(opened.links, Watching(), QUICK)
        order, inputs = order_for(made)
        asking = asyncio.create_task(consult(order, order.steps[0], inputs, order.inputs, replicas))
        answered, _ = await asyncio.wait({asking}, timeout=0.5)
        assert not answered
        await stack.aclose()
        found = await asking
        await replicas.close()
    assert replicas.busy
    assert found.problems == {}
    assert peer in found.replies


async def test_who_cannot_be_reached_is_replaced_by_the_next_in_the_line(cluster):
    made = await cluster(replicas=5)
    await made.kill("stage-0-a")
    watch = Watching()
    async with asking(made, watch, QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    line = order.line(order.steps[0])
    assert list(found.asked) == line[:4]
    assert set(found.replies) == set(line[1:4])
    assert list(found.problems) == [line[0]]
    assert watch.ended_[line[0]] is None


async def test_where_too_few_are_left_all_have_been_asked(cluster):
    made = await cluster()
    await made.kill("stage-0-b")
    await made.kill("stage-0-c")
    async with asking(made, Watching(), QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    assert len(found.asked) == 3
    assert len(found.replies) == 1


async def test_audits_are_announced_only_after_the_one_that_serves_has_committed(cluster):
    Telling.log = []
    made = await cluster(liars={f"stage-0-{letter}": Telling for letter in "abc"})
    policy = Policy(audits=0.5)
    async with asking(made, Watching(), QUICK) as ask:
        for _ in range(10):
            order, inputs = order_for(made, policy)
            Telling.log.clear()
            found = await ask(order, inputs)
            assert Telling.log[0] == ("commit", order.steps[0].server)
            assert len(found.asked) == policy.sizes(order.seed, "stage-0").replicas


async def test_whoever_stops_waiting_leaves_nothing_behind_and_blames_nobody(cluster):
    made = await cluster()
    watch = Watching()
    async with asking(made, watch, replace(QUICK, commit=30)) as ask:
        order, inputs = order_for(made)
        waiting = asyncio.ensure_future(ask(order, inputs))
        await watch.all_began.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert sorted(watch.withdrawn_) == sorted(watch.began_)
        assert watch.ended_ == {}
        again, inputs = order_for(made)
        assert len((await ask(again, inputs)).replies) == 3


async def test_where_more_refuse_than_may_be_faulty_the_task_is_wrong_and_nobody_has_failed(cluster):
    made = await cluster(liars={"stage-0-a": Refuses, "stage-0-c": Refuses})
    watch = Watching()
    async with asking(made, watch, QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    assert found.refusal is not None
    assert found.refusal.reason is Refusal.SCHEMA
    assert found.refusal.detail == "not this?[31m", "a terminal obeys nothing that a peer says"
    assert {made.node(peer) for peer in watch.withdrawn_} == {"stage-0-a", "stage-0-c"}


async def test_one_that_refuses_alone_has_failed(cluster):
    made = await cluster(liars={"stage-0-a": Refuses})
    watch = Watching()
    async with asking(made, watch, QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    assert found.refusal is None
    assert len(found.replies) == 2
    assert watch.withdrawn_ == []
    assert [made.node(peer) for peer, seconds in watch.ended_.items() if seconds is None] == ["stage-0-a"]


async def test_one_that_says_something_else_than_its_answer_has_failed(cluster):
    made = await cluster(liars={"stage-0-b": Repeats})
    watch = Watching()
    async with asking(made, watch, QUICK) as ask:
        order, inputs = order_for(made)
        found = await ask(order, inputs)
    (peer,) = found.problems
    assert made.node(peer) == "stage-0-b"
    assert "breaks the protocol" in found.problems[peer]
    assert watch.ended_[peer] is None


class Gated(StageService):
    """Commits once the gate is open."""

    gate: ClassVar[asyncio.Event]

    async def commit(self, sealed: Any, client: Any) -> None:
        await self.gate.wait()
        await super().commit(sealed, client)


class Opening(StageService):
    """Opens the gate when it is asked, and says nothing."""

    async def commit(self, sealed: Any, client: Any) -> None:
        Gated.gate.set()
        await asyncio.Event().wait()


def placed(order: Order, made: Any, place: int, kind: type[StageService]) -> str:
    """The replica in this place of the line is such a one from now on; its name."""
    node: str = made.node(order.line(order.steps[0])[place])
    made.services[node].__class__ = kind
    return node


async def test_beside_one_that_hangs_the_next_is_asked_long_before_the_deadline(cluster, monkeypatch):
    monkeypatch.setattr(consultation, "SOONEST", 0.1)
    Gated.gate = asyncio.Event()
    made, watch = await cluster(replicas=4), Watching()
    watch.usually = 0.001
    async with asyncio.timeout(60), asking(made, watch, replace(QUICK, commit=600)) as ask:
        order, inputs = order_for(made)
        hangs = placed(order, made, 1, Gated)
        found = await ask(order, inputs)
    line = order.line(order.steps[0])
    assert list(found.asked) == line
    assert set(found.replies) == {line[0], line[2], line[3]}
    problems = {made.node(peer): why for peer, why in found.problems.items()}
    assert problems == {hangs: "late: the next in the line has committed"}
    assert watch.ended_[line[1]] is None
    assert found.spared == frozenset()
    assert verdict_of(order, found, made) is None


async def test_who_is_late_and_commits_first_has_its_place_and_the_other_is_held_for_nothing(cluster, monkeypatch):
    monkeypatch.setattr(consultation, "SOONEST", 0.5)
    Gated.gate = asyncio.Event()
    made, watch = await cluster(replicas=4), Watching()
    watch.usually = 0.001
    async with asyncio.timeout(60), asking(made, watch, replace(QUICK, commit=600)) as ask:
        order, inputs = order_for(made)
        placed(order, made, 1, Gated)
        placed(order, made, 3, Opening)
        found = await ask(order, inputs)
    line = order.line(order.steps[0])
    assert list(found.asked) == line
    assert set(found.replies) == set(line[:3])
    assert not found.problems
    assert found.spared == {line[3]} == set(watch.withdrawn_)
    assert verdict_of(order, found, made) is None


@pytest.mark.parametrize(("usually", "hanging"), [(None, (1,)), (0.001, (0, 1, 2))], ids=["new", "all of them"])
async def test_nobody_is_late_of_whom_nothing_is_known_or_before_anybody_has_committed(
    cluster, monkeypatch, usually, hanging
):
    monkeypatch.setattr(consultation, "SOONEST", 0.05)
    Gated.gate = asyncio.Event()
    made, watch = await cluster(replicas=4), Watching()
    watch.usually = usually
    async with asyncio.timeout(60), asking(made, watch, replace(QUICK, commit=600)) as ask:
        order, inputs = order_for(made)
        _ = [placed(order, made, place, Gated) for place in hanging]
        waiting = asyncio.create_task(ask(order, inputs))
        assert not (await asyncio.wait({waiting}, timeout=0.5))[0]
        Gated.gate.set()
        found = await waiting
    assert list(found.asked) == order.line(order.steps[0])[:3]
    assert found.problems == {}


class Outsized(StageService):
    """Answers with a thousand times as much as its stage does."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor.repeat(1000, 1) for name, tensor in super().answer(inputs, client).items()}


async def test_an_answer_that_is_larger_than_one_can_be_is_not_kept(cluster):
    made = await cluster(replicas=4, liars={"stage-0-a": Outsized, "stage-0-b": Lies})
    async with asking(made, Watching(), QUICK) as ask:
        order, inputs = order_for(made, Policy(replicas=4))
        found = await ask(order, inputs)
    named = {made.node(peer): reply for peer, reply in found.replies.items()}
    assert named["stage-0-a"].tensors is None is not named["stage-0-a"].reveal
    assert named["stage-0-b"].tensors is not None, "a lie that could be an answer is kept: it convicts"
    assert [made.node(peer) for peer in found.problems] == ["stage-0-a"]
    assert "bytes, where an answer has" in next(iter(found.problems.values()))
