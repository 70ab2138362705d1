"""From what replicas sent to whose answer counts, and to who is to blame for what.

A replica that breaks the rules of commit and reveal has no vote. Of the others the vote (`core.agreement`) decides. It
tells who is outvoted; who lied is told by computing the answer again, since a quorum may be the liars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from decentral.core.agreement import Outcome, Vote, distance, distances, exact_distances, vote
from decentral.core.quorum import Sizes
from decentral.errors import Malformed
from decentral.trust.evidence import (
    Fault,
    FaultKind,
    Finding,
    Kind,
    Question,
    Reply,
    SignedClaim,
    commitment,
    together,
)
from decentral.wire.identity import peer_id
from decentral.wire.messages import PeerId

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A replica's answer that keeps all rules, with its signature. `tensors`: None where only its digest was kept."""

    node: PeerId
    signed: SignedClaim
    tensors: Tensors | None


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What came of those who were asked, by the rules of commit and reveal and before any vote.

    `faults`: of those who broke the rules; `apart`: the distances between the others' answers, in their order.
    """

    question: Question
    asked: tuple[PeerId, ...]
    answers: Mapping[PeerId, Answer]
    faults: tuple[Fault, ...]
    apart: Float[np.ndarray, "n n"]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """`answer`: the one that counts, if a quorum agrees on it and nothing contradicts it."""

    finding: Finding
    faults: tuple[Fault, ...]
    answer: Answer | None
    vote: Vote


def judge(
    question: Question,
    asked: Sequence[PeerId],
    replies: Mapping[PeerId, Reply],
    sizes: Sizes,
    tolerance: float,
    *,
    exact: bool = False,
    by_digest: bool = False,
    reference: Tensors | None = None,
) -> Judgement:
    """What a part's replicas agree on: `hear`, then `rule`."""
    return rule(hear(question, asked, replies, exact=exact, by_digest=by_digest), sizes, tolerance, reference)


def hear(
    question: Question,
    asked: Sequence[PeerId],
    replies: Mapping[PeerId, Reply],
    *,
    exact: bool = False,
    by_digest: bool = False,
) -> Heard:
    """Who has answered. `asked`: who was drawn; what others sent is left aside.

    `replies` are under the authenticated name of who sent them, and hold what had come when the deadlines ended.
    Tensors that one has sent stand for all that revealed their digest. `by_digest`: where all revealed the same one, it
    is enough without them. `exact`: the part computes the same bits everywhere. Raises ValueError for a replica that
    was asked twice.
    """
    if len(set(asked)) < len(asked):
        raise ValueError("a replica was asked twice")
    given = {node: replies.get(node, Reply()) for node in asked}
    answers, faults = _answers(question, given, by_digest)
    known = [answer.tensors for answer in answers.values() if answer.tensors is not None]
    if exact or len(known) < len(answers):
        apart = exact_distances([answer.signed.claim.output for answer in answers.values()])
    else:
        apart = distances(known)
    return Heard(question, tuple(asked), answers, tuple(faults), apart)


def rule(heard: Heard, sizes: Sizes, tolerance: float, reference: Tensors | None = None) -> Judgement:
    """What a quorum of those who have answered agrees on.

    `reference`: the answer as the verifier has computed it, on any device and in any precision: who signed one farther
    away than the tolerance has lied, and such an answer does not count even if a quorum shares it.
    """
    asked, answers, part = heard.asked, heard.answers, heard.question.part
    faults = list(heard.faults)
    ruling = vote(list(answers), heard.apart, tolerance, sizes.quorum)
    wrong = {
        node
        for node, answer in answers.items()
        if reference is not None and answer.tensors is not None and _off(answer.tensors, reference) > tolerance
    }
    for node in asked:
        if node in wrong:
            detail = "computed again, its part comes to something else"
            faults.append(Fault(node, part, FaultKind.LIED, detail, (answers[node].signed,)))
        elif node in ruling.far and reference is None and ruling.outcome is Outcome.AGREED:
            detail = "a quorum came to something else"
            faults.append(Fault(node, part, FaultKind.DISAGREED, detail, (answers[node].signed,)))
    winner = answers.get(PeerId(ruling.winner)) if ruling.winner is not None else None
    agreed = len(ruling.near) if winner is not None else 0
    if winner is not None and winner.node in wrong:
        winner, detail = None, f"{agreed} of {len(asked)} agree on an answer that is wrong"
    else:
        detail = f"{ruling.outcome.value}: {len(ruling.near)} of {len(asked)}, {sizes.quorum} needed"
    finding = Finding(Kind.CONSENSUS, part, winner is not None, detail, float(agreed))
    return Judgement(finding, tuple(faults), winner, ruling)


def equivocation(
    one: SignedClaim, other: SignedClaim, apart: float | None = None, tolerance: float = 0.0
) -> Fault | None:
    """The fault of a replica that has signed two answers to the same inputs that cannot both be right; else None.

    Two outputs for one question: no replica answers twice. Two clients' questions with the same part, model and inputs:
    if the outputs' distance is known and exceeds the tolerance. Raises Malformed for signatures that do not verify.
    """
    if (node := one.signer()) != other.signer() or one.claim.output == other.claim.output:
        return None
    first, second = one.claim.question, other.claim.question
    same = (first.part, first.model, first.inputs) == (second.part, second.model, second.inputs)
    if first == second:
        detail = "two answers to one question"
    elif same and apart is not None and not apart <= tolerance:
        detail = f"answers to two clients that are {apart:.2g} apart"
    else:
        return None
    return Fault(node, first.part, FaultKind.EQUIVOCATED, detail, (one, other))


def linked(question: Question, given: bytes) -> Finding:
    """Whether a part was asked about the digest that the part before it answered (or that the client has asked)."""
    passed = question.inputs == given
    detail = "was given what came before" if passed else "was given something else than what came before"
    return Finding(Kind.LINK, question.part, passed, detail)


def pinned(question: Question, digest: str) -> Finding:
    """Whether a part is the one whose digest (hexadecimal) the verifier has pinned."""
    passed = question.model.hex() == digest
    detail = "is the model that is pinned" if passed else f"is {question.model.hex()[:12]}…, not {digest[:12]}…"
    return Finding(Kind.MODEL, question.part, passed, detail)


def fresh(question: Question, epoch: int) -> Finding:
    """Whether a question is of the epoch that the verifier knows."""
    detail = f"of epoch {question.epoch}, which is {'' if question.epoch == epoch else f'over: it is {epoch} '}now"
    return Finding(Kind.FRESH, question.part, question.epoch == epoch, detail)


class _Breach(Exception):
    """A reply that has no vote: what its sender did, and in which way."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def _answers(
    question: Question, given: Mapping[PeerId, Reply], by_digest: bool
) -> tuple[dict[PeerId, Answer], list[Fault]]:
    """The replies that have a vote, and what the others did."""
    shown = together(reply.commitment for reply in given.values() if reply.commitment is not None)
    revealed = {reply.reveal.output for reply in given.values() if reply.reveal is not None}
    came = sent(given.values())
    held = dict(came.values())
    answers: dict[PeerId, Answer] = {}
    faults: list[Fault] = []
    for node, reply in given.items():
        try:
            signed = _checked(question, node, reply, shown)
            if reply.tensors is not None and came[id(reply.tensors)][0] != signed.claim.output:
                raise _Breach(FaultKind.BROKE_COMMITMENT, "sent other tensors than it had committed to")
            if signed.claim.output not in held and not (by_digest and len(revealed) == 1):
                raise _Breach(FaultKind.UNRESPONSIVE, "revealed, and did not send its answer")
        except _Breach as breach:
            faults.append(Fault(node, question.part, breach.kind, breach.detail))
        else:
            answers[node] = Answer(node, signed, held.get(signed.claim.output))
    return answers, faults


def sent(replies: Iterable[Reply]) -> dict[int, tuple[bytes, Tensors]]:
    """The tensors that came with their digests, by identity: several replies may share them."""
    found: dict[int, tuple[bytes, Tensors]] = {}
    for reply in replies:
        if reply.tensors is not None and id(reply.tensors) not in found and reply.sent is not None:
            found[id(reply.tensors)] = reply.sent, reply.tensors
    return found


def _checked(question: Question, node: PeerId, reply: Reply, shown: bytes) -> SignedClaim:
    """What a reply has opened its commitment to. Raises _Breach unless it keeps all rules."""
    if reply.commitment is None:
        raise _Breach(FaultKind.UNRESPONSIVE, "made no commitment")
    try:
        signed = reply.signed(question, shown)
    except Malformed:
        raise _Breach(
            FaultKind.INVALID, "what it revealed is not signed for this question and these commitments"
        ) from None
    if reply.reveal is None or signed is None:
        raise _Breach(FaultKind.UNRESPONSIVE, "committed, and revealed nothing")
    if peer_id(signed.public_key) != node:
        raise _Breach(FaultKind.INVALID, "what it revealed is signed by another peer")
    if commitment(signed.claim, node, reply.reveal.salt) != reply.commitment:
        raise _Breach(FaultKind.BROKE_COMMITMENT, "revealed something else than it had committed to")
    return signed


def _off(tensors: Tensors, reference: Tensors) -> float:
    """Their distance, whatever the precision of the reference."""

    def plain(tensors: Tensors) -> dict[str, Tensor]:
        return {n: t.detach().cpu().double() if t.is_floating_point() else t.cpu() for n, t in tensors.items()}

    dtypes = {name: tensor.dtype.is_floating_point for name, tensor in tensors.items()}
    if dtypes != {name: tensor.dtype.is_floating_point for name, tensor in reference.items()}:
        return float("inf")
    return distance(plain(tensors), plain(reference))
