"""A node's side of a challenge: evidence that is made for one session, and the only end that can read what follows."""

from __future__ import annotations

from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from decentral.attestation.attester import Attester, Unattested
from decentral.attestation.binding import VOUCHED, report_data
from decentral.attestation.evidence import Evidence
from decentral.attestation.registers import EventLog
from decentral.attestation.session.channel import NodeChannel
from decentral.errors import Malformed, Refusal
from decentral.wire.certificate import public_info
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from decentral.wire.sealed import Offer

ATTEMPTS = 3
"""At a quote, where more is measured meanwhile."""


class Showing:
    """What a node shows who challenges it. Its keys are new for every start, and are written nowhere.

    `peer`: its id; `part`, `model`, `epoch`: what it serves, as its clients have it pinned.
    """

    def __init__(self, attester: Attester, *, peer: PeerId, part: str, model: bytes, epoch: int) -> None:
        self._attester, self._peer = attester, peer
        self._part, self._model, self._epoch = part, model, epoch
        self._key = X25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes_raw()
        self._voice = Identity.generate()
        self._log: EventLog | None = None
        """As it was last: it seldom grows."""

    async def __call__(self, nonce: bytes, certificate: bytes) -> Offer:
        """`certificate`: what this node shows in TLS (PEM). Raises Malformed where no evidence can be made."""
        evidence, bound = await self.made(nonce, tls_key(certificate))

        def agree(keys: bytes) -> NodeChannel:
            return NodeChannel(self._key, keys, bound)

        return Offer(evidence.encoded(), agree, partial(self._voice.sign, VOUCHED))

    async def made(self, nonce: bytes, key: bytes) -> tuple[Evidence, bytes]:
        """Evidence for a nonce and a public key of TLS (SubjectPublicKeyInfo in DER), and what its quote covers.

        Raises Malformed where none can be made.
        """
        try:
            log = self._log or await self._attester.log()
            for _ in range(ATTEMPTS):
                bound = self._bound(nonce, key, log.digest)
                quoted = await self._attester.quote(bound)
                log, before = quoted.log, log
                self._log = log
                if log == before:
                    return Evidence.of(quoted, self.public_key, self._voice.public_key), bound
        except Unattested as error:
            raise Malformed(Refusal.UNSPECIFIED, f"no evidence of this machine can be made: {error}") from error
        raise Malformed(Refusal.UNSPECIFIED, "no evidence of this machine can be made: its files change all the time")

    def _bound(self, nonce: bytes, key: bytes, events: bytes) -> bytes:
        return report_data(
            tls_key=key,
            hpke_key=self.public_key,
            voice=self._voice.public_key,
            peer=self._peer,
            nonce=nonce,
            model=self._model,
            part=self._part,
            epoch=self._epoch,
            events=events,
        )


def tls_key(certificate: bytes) -> bytes:
    """The public key of a certificate in PEM: SubjectPublicKeyInfo in DER. Raises Malformed."""
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
    except ValueError as error:
        raise Malformed(Refusal.SIGNATURE, "this is no certificate") from error
    return public_info(key)
