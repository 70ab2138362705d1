"""What anybody finds who looks at what was said about an answer: the client at once, a verifier later.

Nothing is believed but the verifier's trust file and what peers have signed. Where the policy of the order and the
verifier's own differ, the stricter counts, each number by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from decentral.core.quorum import Sizes
from decentral.errors import Malformed
from decentral.trust.anchors import Anchors, Revoked
from decentral.trust.attested import verify_attestations
from decentral.trust.consensus import Answer, Heard, Judgement, Tensors, fresh, hear, linked, pinned, rule
from decentral.trust.evidence import Fault, Finding, Kind, Question, Reply
from decentral.trust.leakage import verify_stated
from decentral.trust.order import Order
from decentral.trust.policy import Policy, Verdict
from decentral.trust.proofs import verify_proofs
from decentral.trust.transcript import Exchange, Transcript


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """`judgements`: of each exchange in turn; `output`: of the last part, if the verdict is that it is valid."""

    findings: tuple[Finding, ...]
    faults: tuple[Fault, ...]
    verdict: Verdict
    output: Tensors | None
    judgements: tuple[Judgement, ...]


# ---- other evidence -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What evidence beside the replies has to fit: the question, the answer that won, what the verifier believes.

    `transcript` and `judgements`: of all parts, for evidence that counts only together with that of others.
    """

    transcript: Transcript
    judgements: Sequence[Judgement]
    question: Question
    exchange: Exchange
    answer: Answer | None
    anchors: Anchors
    policy: Policy


class Verifier(Protocol):
    """Checks one kind of evidence. Raises Malformed for bytes that are no such evidence."""

    def __call__(self, evidence: bytes, case: Case, /) -> Finding: ...


Verifiers = Mapping[Kind, Verifier]
VERIFIERS: Verifiers = MappingProxyType(
    {Kind.LEAKAGE: verify_stated, Kind.ZK: verify_proofs, Kind.ATTESTATION: verify_attestations}
)
"""By what they find out. Evidence of a kind that is not here has failed: nobody has checked it."""


def _verified(kind: Kind, evidence: bytes, case: Case, verifiers: Verifiers) -> Finding:
    part = case.question.part
    if kind not in verifiers:
        return Finding(kind, part, False, "there is evidence that nobody here can check")
    try:
        finding = verifiers[kind](evidence, case)
    except Malformed as error:
        return Finding(kind, part, False, f"the evidence cannot be read ({error.detail})")
    if (finding.kind, finding.part) != (kind, part):
        return Finding(kind, part, False, "the evidence is about something else")
    return finding


# ---- examination --------------------------------------------------------------------------------------------------


def examine(
    transcript: Transcript,
    anchors: Anchors,
    policy: Policy,
    references: Mapping[str, Tensors] = MappingProxyType({}),
    verifiers: Verifiers = VERIFIERS,
    *,
    judgements: Sequence[Judgement] | None = None,
) -> Examination:
    """What can be found out about an answer by who trusts these anchors and asks for what this policy says.

    `references`: answers of parts as the verifier has computed them from the inputs that they were given, by name. Of
    parts before the last that nobody disputes the digests are enough. `judgements`: what `judged` has found of each
    exchange, where the verifier has asked it already.
    """
    order = transcript.order
    findings: list[Finding] = []
    if judgements is None:
        judgements = [
            judged(transcript, place, anchors, policy, references.get(exchange.step.part))
            for place, exchange in enumerate(transcript.exchanges)
        ]
    given: bytes | None = order.inputs
    for exchange, judgement in zip(transcript.exchanges, judgements, strict=True):
        question = order.question(exchange.step, exchange.inputs)
        findings += [
            _model(question, exchange, anchors, order.time, order.policy.proved or policy.proved),
            _link(question, given),
            fresh(question, anchors.epoch),
            judgement.finding,
        ]
        case = Case(transcript, judgements, question, exchange, judgement.answer, anchors, policy)
        findings += [_verified(kind, data, case, verifiers) for kind, data in exchange.evidence.items()]
        given = None if judgement.answer is None else judgement.answer.signed.claim.output
    verdict = policy.judge(order.seed, [step.part for step in order.steps], findings)
    reasons = (*_misordered(transcript, anchors, policy), *verdict.reasons)
    verdict = Verdict(not reasons, reasons, tuple(findings))
    answer = judgements[-1].answer if judgements and verdict.valid else None
    faults = tuple(fault for judgement in judgements for fault in judgement.faults)
    return Examination(
        tuple(findings), faults, verdict, answer.tensors if answer is not None else None, tuple(judgements)
    )


def _misordered(transcript: Transcript, anchors: Anchors, policy: Policy) -> list[str]:
    """What is wrong with the order as a whole."""
    order = transcript.order
    reasons = []
    local = [(part, model.hex()) for part, model in order.local]
    steps = [(step.part, step.model.hex()) for step in order.steps]
    places = ["client"] * len(local) + ["peers"] * len(steps)
    wanted = [(part.name, part.model(order.policy.proved or policy.proved)) for part in anchors.parts]
    if not wanted:
        reasons.append("the trust file names no parts of a model")
    elif local + steps != wanted or places != [part.at for part in anchors.parts]:
        reasons.append("the order is not for the parts that are pinned, in their order, where each of them belongs")
    if (gone := anchors.revoked_at(order.client, order.time)) is not None:
        reasons.append(f"the client {_revoked(gone)}")
    asked = tuple(exchange.step for exchange in transcript.exchanges)
    if asked != order.steps[: len(asked)]:
        reasons.append("other parts were asked than ordered")
    return reasons


def _model(question: Question, exchange: Exchange, anchors: Anchors, time: int, proved: bool) -> Finding:
    """Whether the part is the pinned one, and all who were asked are pinned as serving it and counted at that time."""
    parts = [part for part in anchors.parts if part.name == question.part]
    if not parts:
        return Finding(Kind.MODEL, question.part, False, "is no part that is pinned")
    if proved and not parts[0].circuit:
        return Finding(Kind.MODEL, question.part, False, "has no circuit that is pinned")
    known = {anchor.id for anchor in anchors.replicas(question.part) if anchor.digest == parts[0].digest}
    strangers = [node for node in exchange.asked if node not in known]
    found = pinned(question, parts[0].model(proved))
    if not found.passed:
        return found
    for node in exchange.asked:
        if (gone := anchors.revoked_at(node, time)) is not None:
            return replace(found, passed=False, detail=f"{node} was asked, which {_revoked(gone)}")
    if not strangers:
        return found
    return replace(found, passed=False, detail=f"{strangers[0]} was asked, which is not pinned as serving it")


def _revoked(gone: Revoked) -> str:
    return f"had been revoked by then{f' ({gone.reason})' if gone.reason else ''}"


def _link(question: Question, given: bytes | None) -> Finding:
    if given is None:
        return Finding(Kind.LINK, question.part, False, "the part before it has no answer that counts")
    return linked(question, given)


def hear_part(transcript: Transcript, place: int) -> Heard:
    """What came of those who were asked about one part; the same whatever the policy."""
    exchange = transcript.exchanges[place]
    question = transcript.order.question(exchange.step, exchange.inputs)
    by_digest = place < len(transcript.exchanges) - 1
    exact = transcript.order.policy.proved
    return hear(question, tuple(dict.fromkeys(exchange.asked)), exchange.replies, exact=exact, by_digest=by_digest)


def judged(
    transcript: Transcript,
    place: int,
    anchors: Anchors,
    policy: Policy,
    reference: Tensors | None = None,
    *,
    heard: Heard | None = None,
) -> Judgement:
    """The vote about one part, as both policies want it, among those whom the seed has drawn; see `examine`.

    `heard`: what `hear_part` says, if it was asked already.
    """
    order, exchange = transcript.order, transcript.exchanges[place]
    part = exchange.step.part
    calibrated = [each.tolerance for each in anchors.parts if each.name == part]
    tolerance = min(policy.tolerance, order.policy.tolerance, *calibrated)
    if order.policy.proved:
        tolerance, reference = 0.0, None  # a circuit's numbers, of which what was computed in floats tells nothing
    sizes = _stricter(order.policy.sizes(order.seed, part), policy.sizes(order.seed, part))
    judgement = rule(heard or hear_part(transcript, place), sizes, tolerance, reference)
    if (problem := _miscalled(order, exchange, policy)) is None:
        return judgement
    return replace(judgement, finding=replace(judgement.finding, passed=False, detail=problem), answer=None)


def _stricter(ordered: Sizes, wanted: Sizes) -> Sizes:
    """As many agree as either policy wants; where more are asked than the verifier wants, no fewer than most of them,
    if that is so in what it wants.
    """
    quorum = max(ordered.quorum, wanted.quorum)
    if wanted.lone and ordered.replicas > wanted.replicas > 1:
        quorum = max(quorum, ordered.replicas // 2 + 1)
    return Sizes(max(ordered.replicas, wanted.replicas), max(ordered.faulty, wanted.faulty), quorum)


def _miscalled(order: Order, exchange: Exchange, policy: Policy) -> str | None:
    """What is wrong with who was asked."""
    part, asked = exchange.step.part, exchange.asked
    line = order.line(exchange.step)
    ordered, wanted = order.policy.sizes(order.seed, part), policy.sizes(order.seed, part)
    if list(asked) != line[: len(asked)]:
        return "others were asked than the seed draws"
    if len(asked) < wanted.replicas:
        return f"{len(asked)} were asked, and the policy wants {wanted.replicas}"
    if len(asked) < min(ordered.replicas, len(line)):
        return f"{len(asked)} were asked, and {ordered.replicas} were ordered"
    silent = sum(exchange.replies.get(node, Reply()).commitment is None for node in asked)
    if len(asked) > ordered.replicas + silent:
        return f"{len(asked)} were asked, {silent} without an answer, and {ordered.replicas} were ordered"
    return None
