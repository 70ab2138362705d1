"""A client's side of a challenge: what a node has shown, and a session that no other machine can read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from decentral.attestation.binding import report_data
from decentral.attestation.evidence import Evidence, verify_evidence
from decentral.attestation.report import Report, Root
from decentral.attestation.session.channel import ClientChannel
from decentral.wire.messages import PeerId


@dataclass(frozen=True, slots=True)
class Subject:
    """What a node is to show evidence of: itself, and the part, with digest and epoch, that the client has pinned."""

    peer: PeerId
    part: str
    model: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Evidence of a node, and for which challenge over which connection it was shown.

    `nonce`: the challenge; `key`: the public key of the certificate that the node has shown in TLS
    (SubjectPublicKeyInfo in DER).
    """

    subject: Subject
    nonce: bytes
    key: bytes
    evidence: Evidence

    @property
    def bound(self) -> bytes:
        """64 bytes that the quote has to cover. Raises Malformed."""
        return report_data(
            tls_key=self.key,
            hpke_key=self.evidence.key,
            voice=self.evidence.voice,
            peer=self.subject.peer,
            nonce=self.nonce,
            model=self.subject.model,
            part=self.subject.part,
            epoch=self.subject.epoch,
            events=self.evidence.log.digest,
        )

    def verify(self, roots: Collection[Root], now: int) -> Report:
        """The facts of the node's machine at that time (seconds since 1970). Raises NotGenuine, Malformed."""
        return verify_evidence(self.evidence, self.bound, roots, now)

    def sealed(self) -> ClientChannel:
        """The client's end of a session with that machine, which its `hello` opens.

        Only after the evidence was verified: whoever has shown it can read all that follows. Raises Malformed.
        """
        return ClientChannel(self.evidence.key, self.bound)
