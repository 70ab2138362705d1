"""A receipt: one file from which anybody who trusts a cluster finds out, later and without a network, whether an answer
counts, as its client did.

What its client has found stands in it too, and it is worth nothing: all of it is found again, and has to be the same.
No key that a receipt brings is ever a root; the verifier's trust file alone says whose signatures count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from decentral import canonical
from decentral.errors import Malformed, Refusal, UserError
from decentral.files import write_atomic
from decentral.trust import packing
from decentral.trust.anchors import Anchors
from decentral.trust.consensus import Tensors
from decentral.trust.evidence import Finding
from decentral.trust.examination import VERIFIERS, Examination, Verifiers, examine, hear_part, judged
from decentral.trust.policy import Policy, Verdict
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity
from decentral.wire.identity import verify as verify_signature

__all__ = ["Examination", "Exchange", "Receipt", "Transcript", "check", "examine", "judged", "verify"]

FORMAT = "decentral receipt v1"
RECEIPT = "receipt"
"""Purpose of signatures."""
NONE: Mapping[str, Tensors] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Receipt:
    """A transcript with what its client has found, signed by the client."""

    transcript: Transcript
    findings: tuple[Finding, ...]
    verdict: Verdict
    public_key: bytes
    signature: bytes

    @classmethod
    def signed(cls, transcript: Transcript, found: Examination, client: Identity) -> Self:
        """Raises ValueError where other parts were asked than ordered, TypeError for tensors that have no encoding."""
        unsigned = cls(transcript, found.findings, found.verdict, client.public_key, b"")
        return replace(unsigned, signature=client.sign(RECEIPT, unsigned.content))

    @cached_property
    def _plain(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **packing.transcript(self.transcript),
            "findings": [packing.finding(each) for each in self.findings],
            "verdict": packing.verdict(self.verdict),
            "public_key": canonical.text(self.public_key),
        }

    @cached_property
    def content(self) -> bytes:
        """All but the signature, which is over this."""
        return canonical.encode(self._plain)

    def encode(self) -> bytes:
        """One canonical JSON text: equal receipts are equal bytes. Raises UserError where no verifier would read it."""
        data = canonical.encode({**self._plain, "signature": canonical.text(self.signature)})
        if len(data) > packing.MOST_BYTES:
            size, most = len(data) >> 20, packing.MOST_BYTES >> 20
            raise UserError(f"the receipt has {size} MiB, and at most {most} are read: ask about fewer inputs at once")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises Malformed unless this is exactly what `encode` writes, and not too large."""
        if len(data) > packing.MOST_BYTES:
            raise Malformed(Refusal.TOO_LARGE, f"it has more than {packing.MOST_BYTES} bytes")
        plain = canonical.decode(data)
        try:
            if plain["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            receipt = cls(
                packing.read_transcript(plain),
                tuple(packing.read_finding(each) for each in plain["findings"]),
                packing.read_verdict(plain["verdict"]),
                canonical.data(plain["public_key"], PUBLIC_KEY_BYTES),
                canonical.data(plain["signature"], SIGNATURE_BYTES),
            )
            same = receipt.encode() == data
        except (UserError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            why = ascii(str(error))[1:200]  # it may quote the file, and a terminal may read it
            raise Malformed(Refusal.MALFORMED, f"a receipt that breaks the rules ({why})") from None
        if not same:
            raise Malformed(Refusal.MALFORMED, "a receipt that says more than receipts say")
        return receipt

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises UserError for a file that cannot be read or is no receipt."""
        try:
            with file.open("rb") as opened:
                return cls.decode(opened.read(packing.MOST_BYTES + 1))
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except Malformed as error:
            raise UserError(f"{file}: is no receipt: {error.detail}") from error

    def save(self, file: Path) -> None:
        """Raises OSError, UserError for what is too large."""
        write_atomic(file, self.encode())

    def unsigned(self) -> str | None:
        """Why it is not its client's word; None if it is."""
        try:
            signer = verify_signature(self.public_key, RECEIPT, self.content, self.signature)
        except Malformed:
            return "the signature of the receipt does not verify"
        return None if signer == self.transcript.order.client else "the receipt is signed by another than the client"


def check(
    receipt: Receipt,
    anchors: Anchors,
    policy: Policy,
    references: Mapping[str, Tensors] = NONE,
    verifiers: Verifiers = VERIFIERS,
) -> Examination:
    """`examine`, by the verifier's policy, and whether the receipt is whole and its client has found the same.

    The client has judged by the policy of its order, and may have computed parts again, or not.
    """
    transcript, own = receipt.transcript, receipt.transcript.order.policy
    heard = [hear_part(transcript, place) for place in range(len(transcript.exchanges))]

    def by(whose: Policy, computed: Mapping[str, Tensors]) -> Examination:
        judgements = [
            judged(transcript, place, anchors, whose, computed.get(each.step.part), heard=heard[place])
            for place, each in enumerate(transcript.exchanges)
        ]
        return examine(transcript, anchors, whose, verifiers=verifiers, judgements=judgements)

    found = by(policy, references)
    again = [found] if policy == own else [by(own, references)]
    if references:
        again.append(by(own, NONE))
    reasons = [problem] if (problem := receipt.unsigned()) is not None else []
    said = (receipt.findings, receipt.verdict)
    if said not in [(each.findings, each.verdict) for each in again]:
        reasons.append("the receipt says of itself what is not found again")
    if not reasons:
        return found
    verdict = Verdict(False, (*reasons, *found.verdict.reasons), found.findings)
    return replace(found, verdict=verdict, output=None)


def verify(receipt: bytes | Path | Receipt, trust: Path | Anchors, policy: Policy | None = None) -> Verdict:
    """Whether an answer is valid for who trusts this `trust.toml` and wants what the policy says (None: `Policy()`).

    Raises UserError for files that cannot be used, Malformed for bytes that are no receipt.
    """
    anchors = trust if isinstance(trust, Anchors) else Anchors.load(trust)
    if not isinstance(receipt, Receipt):
        receipt = Receipt.decode(receipt) if isinstance(receipt, bytes) else Receipt.load(receipt)
    return check(receipt, anchors, policy or Policy()).verdict
