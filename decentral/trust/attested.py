"""Evidence of machines in a receipt: whoever gave an answer ran what is pinned, on a machine that counts.

Each replica was challenged when the client's session with it began, and the session was sealed to its machine before it
was told anything. That an answer was given in there its machine has signed, with a key that the evidence covers and
that is kept nowhere else: evidence does not speak for what its node has said elsewhere, or at another time. Offline, at
the time of the order, the same is found again: by the verifier's own roots, references and list of revoked processors,
and by collateral that lies beside the quotes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from decentral import canonical
from decentral.attestation.binding import MAX_TLS_KEY, VOUCHED
from decentral.attestation.evidence import Evidence
from decentral.attestation.report import Flaw, NotGenuine, Report, Root
from decentral.attestation.session.challenging import Seen, Subject
from decentral.errors import Malformed, Refusal
from decentral.trust.evidence import Finding, Kind, Question, Reply, together
from decentral.trust.machines import Complaint, Machines
from decentral.wire.conversation import NONCE_BYTES
from decentral.wire.identity import verify
from decentral.wire.messages import PeerId

if TYPE_CHECKING:
    from decentral.trust.examination import Case

MOST_NODES = 1000
MOST_KNOWN = 256
"""Verified quotes that are remembered."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one replica has shown: a challenge, the public key of its certificate in TLS, and evidence."""

    nonce: bytes
    key: bytes
    evidence: Evidence


@dataclass(frozen=True)
class Attestations:
    """Of the replicas of one part, by id."""

    shown: Mapping[PeerId, Shown] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Mapping[PeerId, Seen]) -> Self:
        return cls({peer: Shown(each.nonce, each.key, each.evidence.short) for peer, each in seen.items()})

    def encoded(self) -> bytes:
        """Collateral stands once, however many replicas brought the same."""
        collateral = sorted({each.evidence.collateral for each in self.shown.values()})
        places = {data: place for place, data in enumerate(collateral)}
        nodes = {
            peer: {
                **each.evidence.plain(),
                "nonce": canonical.text(each.nonce),
                "tls": canonical.text(each.key),
                "collateral": places[each.evidence.collateral],
            }
            for peer, each in self.shown.items()
        }
        return canonical.encode({"collateral": [canonical.text(data) for data in collateral], "nodes": nodes})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises Malformed unless `data` is exactly what `encoded` gives."""
        value: Any = canonical.decode(data)
        try:
            collateral = value["collateral"]
            if len(value["nodes"]) > MOST_NODES:
                raise ValueError(f"{len(value['nodes'])} nodes")
            found = cls({PeerId(peer): _shown(each, collateral) for peer, each in value["nodes"].items()})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, NotGenuine) as error:
            raise Malformed(Refusal.MALFORMED, f"this is no evidence of machines ({error})") from None
        if found.encoded() != data:
            raise Malformed(Refusal.MALFORMED, "evidence of machines that says more than such evidence does")
        return found


def _shown(plain: Any, collateral: list[str]) -> Shown:
    fields = dict(plain)
    nonce, key = canonical.data(fields.pop("nonce"), NONCE_BYTES), canonical.data(fields.pop("tls"))
    if not 0 < len(key) <= MAX_TLS_KEY:
        raise ValueError(f"a public key of {len(key)} bytes")
    return Shown(nonce, key, Evidence.of_plain({**fields, "collateral": collateral[fields["collateral"]]}))


@dataclass(frozen=True, slots=True)
class Judged:
    """What a verifier makes of a node's machine. `complaints`: why it does not count; `simulated`: as its root says."""

    complaints: tuple[Complaint, ...]
    simulated: bool = False

    @property
    def why(self) -> str:
        return "; ".join(map(str, self.complaints))


def judge(seen: Seen, machines: Machines, now: int) -> Judged:
    """Of evidence at a time (seconds since 1970)."""
    try:
        report = _report(seen, machines.roots, now)
    except NotGenuine as error:
        return Judged((Complaint(error.flaw, error.detail),))
    except Malformed as error:
        return Judged((Complaint(Flaw.MALFORMED, error.detail),))
    return Judged(tuple(machines.complaints(report, seen.evidence.log, now)), report.simulated)


def _report(seen: Seen, roots: tuple[Root, ...], now: int) -> Report:
    """A quote is verified once, as long as all that it rests on is valid."""
    seen = replace(seen, evidence=seen.evidence.short)  # the files are large, and prove nothing
    since, report = _known.get((seen, roots), (now, None))
    if report is None or not since <= now < report.expires:
        report = seen.verify(roots, now)
        with _knowing:
            _known[seen, roots] = now, report
            if len(_known) > MOST_KNOWN:
                del _known[next(iter(_known))]
    return report


_knowing = threading.Lock()
_known: dict[tuple[Seen, tuple[Root, ...]], tuple[int, Report]] = {}
"""With the time at which it was verified: what was valid then had begun before."""


def verify_attestations(evidence: bytes, case: Case) -> Finding:
    """Whether every replica that knew the inputs, since it committed to an answer, ran on a machine that counts, and
    every answer was given in there. Raises Malformed.
    """
    found, question, machines = Attestations.decode(evidence), case.question, case.anchors.machines
    if machines is None:
        return _finding(case, False, "the trust file pins no machines")
    part = next((part for part in case.anchors.parts if part.name == question.part), None)
    if part is None:
        return _finding(case, False, "the trust file does not know this part")
    names = {anchor.id: anchor.name for anchor in case.anchors.peers}
    replies = {node: case.exchange.replies.get(node, Reply()) for node in case.exchange.asked}
    told = [node for node, reply in replies.items() if reply.commitment is not None or reply.reveal is not None]
    opened = together(each.commitment for each in replies.values() if each.commitment is not None)
    reasons, simulated = [], False
    for node in told:
        name = names.get(node, node)
        if (shown := found.shown.get(node)) is None:
            reasons.append(f"{name} has shown nothing of its machine")
            continue
        subject = Subject(node, part.name, bytes.fromhex(part.digest), question.epoch)
        judged = judge(Seen(subject, shown.nonce, shown.key, shown.evidence), machines, case.transcript.order.time)
        simulated = simulated or judged.simulated
        if judged.complaints:
            reasons.append(f"{name}: {judged.why}")
        elif not vouched(shown.evidence, question, replies[node], opened):
            reasons.append(f"{name}: its machine has not signed this answer")
    if not told:
        reasons.append("nobody has answered")
    detail = "; ".join(reasons) or _words(found, told)
    return replace(_finding(case, not reasons, detail), measured=float(len(told)), simulated=simulated)


def vouched(evidence: Evidence, question: Question, reply: Reply, shown: bytes) -> bool:
    """Whether a machine has signed what was revealed, after these commitments (`together`).

    Of what its node has not signed itself, and so has no vote, nothing is asked.
    """
    try:
        signed = reply.signed(question, shown)
    except Malformed:
        return True
    if signed is None or reply.reveal is None:
        return True
    try:
        verify(evidence.voice, VOUCHED, signed.content, reply.reveal.vouched)
    except Malformed:
        return False
    return True


def _finding(case: Case, passed: bool, detail: str) -> Finding:
    return Finding(Kind.ATTESTATION, case.question.part, passed, detail)


def _words(found: Attestations, nodes: list[PeerId]) -> str:
    kinds = sorted({found.shown[node].evidence.technology.value for node in nodes})
    return f"{len(nodes)} {'machine counts' if len(nodes) == 1 else 'machines count'} ({', '.join(kinds)})"
