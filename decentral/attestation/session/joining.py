"""Evidence for an authority that lets only machines in which count: of the key that it is to certify, for this run."""

from __future__ import annotations

import hashlib

from decentral.attestation.attester import Attester
from decentral.attestation.evidence import Evidence
from decentral.attestation.session.challenging import Seen, Subject
from decentral.attestation.session.showing import Showing
from decentral.wire.messages import PeerId

PART = "join"
"""In place of the part that a node serves."""
_RUN = b"decentral/join/v1\0"


def subject(peer: PeerId, run: str) -> Subject:
    """What the evidence of a peer is about that joins the run of a recipe with this hash."""
    return Subject(peer, PART, hashlib.sha256(_RUN + run.encode()).digest(), 0)


class Joining:
    """A peer's side: see `wire.enrolment.Show`."""

    def __init__(self, attester: Attester, peer: PeerId, run: str) -> None:
        about = subject(peer, run)
        self._showing = Showing(attester, peer=peer, part=about.part, model=about.model, epoch=about.epoch)

    async def __call__(self, nonce: bytes, key: bytes) -> bytes:
        """Raises Malformed where no evidence can be made."""
        evidence, _ = await self._showing.made(nonce, key)
        return evidence.short.encoded()


def shown_by(peer: PeerId, run: str, nonce: bytes, key: bytes, evidence: bytes) -> Seen:
    """The authority's side: what a peer has shown, to be judged. Raises NotGenuine for bytes that are no evidence."""
    return Seen(subject(peer, run), nonce, key, Evidence.parse(evidence))
