"""Proofs of an answer that is there: of every part at once, from the replica that serves it or another that agrees.

Whoever gave the answer that counts is asked to prove it, in the order of the line, until one does. The client has the
numbers at both ends of every part, so that each proof is verified as it comes, and who sent one that does not hold is
to blame for it, whatever the proofs of other parts are worth.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NoReturn

from decentral.errors import Malformed, Refusal, Refused, TransportError, UserError
from decentral.serving.asking.chain import Course, Tensors
from decentral.serving.asking.consultation import BUSY_PAUSE, LONGEST_PAUSE, OF_TASKS
from decentral.serving.asking.replicas import Replicas
from decentral.trust.anchors import Anchors
from decentral.trust.evidence import Fault, FaultKind, Kind, Question
from decentral.trust.proofs import MOST_SRS, Integers, Proofs, check_part, samples
from decentral.trust.transcript import Transcript
from decentral.wire.conversation import Proof, Prove, Task, Terms
from decentral.wire.messages import PeerId
from decentral.zk.store import Store

GLANCE = 1.0
"""Seconds between two reports of a proof that is waited for."""


class State(Enum):
    """How it stands with a proof."""

    PROVING = "proving"
    PROVED = "proved"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Proving:
    """Of one part: which replica is asked, for how many seconds by now, and how it stands."""

    part: str
    node: PeerId
    seconds: float
    state: State


Say = Callable[[Proving], None]


@dataclass(frozen=True, slots=True)
class Proven:
    """`course`: with the proofs of all parts, and with the faults of those who failed to give one, which are `faults`;
    `lacking`: the parts that nobody proved.

    `provers`: whose proofs they are, and the seconds that each took, by part.
    """

    course: Course
    lacking: frozenset[str] = frozenset()
    provers: Mapping[str, tuple[PeerId, float]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class _Case:
    """A part that is to be proved: what it was given and came to, sample by sample, and who agreed on it."""

    question: Question
    task: Task
    inputs: tuple[Integers, ...]
    outputs: tuple[Integers, ...]
    holders: tuple[PeerId, ...]
    attested: bool


@dataclass(slots=True)
class _Found:
    """What has come of a part so far."""

    proofs: Proofs | None = None
    prover: tuple[PeerId, float] | None = None
    faults: list[Fault] = field(default_factory=list)
    problems: dict[PeerId, str] = field(default_factory=dict)
    refused: dict[PeerId, Refused] = field(default_factory=dict)


class _Failed(Exception):
    """What a replica did instead of proving."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


class _Lacking(Exception):
    """Nobody proves a part: the others need not go on."""


class Provers:
    """Asks replicas to prove their answers, for one client."""

    def __init__(self, replicas: Replicas, anchors: Anchors, srs: str) -> None:
        """`srs`: digest of the one that the circuits stand on."""
        self._replicas, self._anchors, self._srs = replicas, anchors, srs
        self._reference: bytes | None = None
        """The SRS itself; empty: it is in the store, and too large to travel; None: it is not here."""

    async def prove(self, course: Course, say: Say = lambda proving: None) -> Proven:
        """The same course with proofs of all parts that are to be proved, as far as they come: without one of them the
        others are worth nothing, and are not waited for.

        Raises UserError where honest replicas refuse to prove these numbers, or there is no SRS to verify proofs by;
        Unproven where they cannot be verified here.
        """
        if self._reference is None:
            self._reference = await asyncio.to_thread(self._stored)
        transcript, order = course.transcript, course.transcript.order
        to_prove = order.policy.to_prove(order.seed, [step.part for step in order.steps])
        found = [_Found() for _ in transcript.exchanges]
        try:
            async with asyncio.TaskGroup() as group:
                for place, each in enumerate(found):
                    if transcript.exchanges[place].step.part in to_prove:
                        group.create_task(self._part(self._case(course, place), each, order.policy.faulty, say))
        except BaseExceptionGroup as failed:
            _, others = failed.split(_Lacking)
            if others is not None:
                raise others.exceptions[0] from None
        exchanges, judgements, lacking = [], [], set[str]()
        for exchange, judgement, each in zip(transcript.exchanges, course.judgements, found, strict=True):
            evidence, part = dict(exchange.evidence), exchange.step.part
            if each.proofs is not None:
                carried = (self._reference or b"") if part == to_prove[0] else b""
                evidence[Kind.ZK] = replace(each.proofs, srs=carried).encoded()
            elif part in to_prove:
                lacking.add(part)
            exchanges.append(replace(exchange, evidence=evidence))
            judgements.append(replace(judgement, faults=(*judgement.faults, *each.faults)))
        problems = {**course.problems, **{peer: why for each in found for peer, why in each.problems.items()}}
        proved = Transcript(order, tuple(exchanges), transcript.inputs)
        provers = {
            exchange.step.part: each.prover
            for exchange, each in zip(exchanges, found, strict=True)
            if each.prover is not None
        }
        faults = tuple(fault for each in found for fault in each.faults)
        return Proven(Course(proved, tuple(judgements), problems), frozenset(lacking), provers, faults)

    def _case(self, course: Course, place: int) -> _Case:
        transcript = course.transcript
        exchange, answer = transcript.exchanges[place], course.judgements[place].answer
        assert answer is not None
        assert answer.tensors is not None
        given = self._given(course, place)
        question = transcript.order.question(exchange.step, exchange.inputs)
        later = transcript.exchanges[place + 1].step.part if place + 1 < len(transcript.exchanges) else None
        terms = Terms(question.task, question.nonce, question.epoch)
        agreed = answer.signed.claim.output
        reveals = {node: exchange.replies[node].reveal for node in exchange.asked if node in exchange.replies}
        return _Case(
            question,
            Task(exchange.step.part, exchange.step.model, given, terms, Prove()),
            samples(given, self._names(exchange.step.part, given)),
            samples(answer.tensors, self._names(later, answer.tensors)),
            tuple(node for node, reveal in reveals.items() if reveal is not None and reveal.output == agreed),
            transcript.order.policy.attested,
        )

    def _given(self, course: Course, place: int) -> Tensors:
        before = course.judgements[place - 1].answer if place else None
        given = course.transcript.inputs if before is None else before.tensors
        assert given is not None
        return given

    def _names(self, part: str | None, tensors: Tensors) -> tuple[str, ...]:
        """In which order a circuit takes the tensors, and the one before gives them."""
        named = next((each.inputs for each in self._anchors.parts if each.name == part), ())
        return named or tuple(sorted(tensors))

    # ---- one part -------------------------------------------------------------------------------------------------

    async def _part(self, case: _Case, found: _Found, faulty: int, say: Say) -> None:
        """Asks one holder after another. Who is busy is asked again, until its time is over. Raises _Lacking."""
        loop, pause = asyncio.get_running_loop(), BUSY_PAUSE
        patience = self._replicas.patience.prove * len(case.inputs)
        waiting, began = deque(case.holders), dict[PeerId, float]()
        while waiting:
            node = waiting.popleft()
            since = began.setdefault(node, loop.time())
            try:
                async with self._reporting(case.question.part, node, since, say):
                    found.proofs = await self._asked(case, node, since + patience)
            except _Failed as failed:
                if failed.kind is FaultKind.BUSY and loop.time() + pause < since + patience:
                    waiting.append(node)
                    self._replicas.busy += 1
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                found.faults.append(Fault(node, case.question.part, failed.kind, failed.detail))
                found.problems[node] = failed.detail
                if isinstance(failed.__cause__, Refused) and failed.__cause__.reason in OF_TASKS:
                    found.refused[node] = failed.__cause__
                say(Proving(case.question.part, node, loop.time() - since, State.FAILED))
            else:
                found.prover = node, loop.time() - since
                say(Proving(case.question.part, node, loop.time() - since, State.PROVED))
                return
        self._lacking(case, found, faulty)

    @asynccontextmanager
    async def _reporting(self, part: str, node: PeerId, since: float, say: Say) -> AsyncIterator[None]:
        """Says every second that a proof is waited for."""
        loop = asyncio.get_running_loop()

        async def report() -> None:
            while True:
                say(Proving(part, node, loop.time() - since, State.PROVING))
                await asyncio.sleep(GLANCE)

        reports = loop.create_task(report())
        try:
            yield
        finally:
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)

    async def _asked(self, case: _Case, node: PeerId, ends: float) -> Proofs:
        """One replica's proofs, verified. Raises _Failed."""
        wanted = self._reference is None
        task = replace(case.task, prove=Prove(srs=wanted))
        try:
            async with asyncio.timeout_at(ends):
                session = await self._replicas.session(node, case.attested)
                async with session.converse() as conversation:
                    await conversation.say(task)
                    heard = await conversation.hear()
        except TimeoutError:
            raise _Failed(FaultKind.UNRESPONSIVE, "gave this answer, and sent no proof of it in time") from None
        except Refused as refused:
            kind = FaultKind.BUSY if refused.reason is Refusal.BUSY else FaultKind.UNRESPONSIVE
            raise _Failed(kind, f"gave this answer, and refused to prove it ({refused})") from refused
        except TransportError as error:
            raise _Failed(FaultKind.UNRESPONSIVE, f"gave this answer, and sent no proof of it ({error})") from error
        if not isinstance(heard, Proof):
            raise _Failed(FaultKind.INVALID, f"was asked for a proof, and sent something else ({type(heard).__name__})")
        try:
            own = await asyncio.to_thread(Proofs.decode, heard.evidence)
        except Malformed as error:
            raise _Failed(FaultKind.INVALID, f"its proof cannot be read ({error.detail})") from error
        if not wanted:
            own = replace(own, srs=self._reference or b"")
        elif not own.srs:
            raise _Failed(FaultKind.UNRESPONSIVE, "sent no SRS, which is not in this machine's store either")
        problem = await check_part(own, case.question, node, case.inputs, case.outputs)
        if problem is not None:
            raise _Failed(FaultKind.INVALID, f"its proof does not count: {problem}")
        self._reference = self._reference if self._reference is not None else own.srs
        return own

    def _lacking(self, case: _Case, found: _Found, faulty: int) -> NoReturn:
        """Raises UserError where so many refuse these numbers that one of them is honest, else _Lacking."""
        if len(found.refused) > faulty:
            refused = next(iter(found.refused.values()))
            raise UserError(f"the replicas of {case.question.part} cannot prove their answer ({refused})")
        raise _Lacking

    def _stored(self) -> bytes | None:
        """Blocking."""
        try:
            file = Store().srs(self._srs, local=True).path
        except UserError:
            return None
        return file.read_bytes() if file.stat().st_size <= MOST_SRS else b""
