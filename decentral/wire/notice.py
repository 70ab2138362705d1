"""A notice of a cluster's authority: who is admitted no more, whose certificates are too old, which authorities count.

It is signed, so that it does not matter who brings it: a file, a person, the authority itself. Each has a higher number
than the one before, and nobody who has read one goes back to an older. What a peer knows of it is `Admitted`, and asked
for every call that comes and every connection that is made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from decentral.errors import Malformed, Refusal
from decentral.wire.certificate import issued_at, peer_id_of, pem_of
from decentral.wire.identity import PEER_ID
from decentral.wire.messages import PeerId
from decentral.wire.v1 import authority_pb2 as pb

FILE = "notice.pb"
"""In a cluster's folder for everybody, and in a node's own: the newest that it has read."""
MOST_BYTES = 1 << 20
MOST_RULINGS, MOST_REASON, MOST_AUTHORITIES, MOST_CERTIFICATE = 4096, 200, 2, 4096
LATEST = 2**63 - 1
PURPOSE = b"decentral/notice/v1\0"
AHEAD = 24 * 3600
"""Seconds by which a notice's time may be ahead of ours: then it is of another clock, and nothing of it is believed."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What holds for one peer; times are Unix seconds, 0 where there is nothing to say.

    Certificates issued before `renew` are to be replaced, those issued before `refuse` count no more; from `revoked` on
    nothing that the identity says does.
    """

    peer: PeerId
    renew: int = 0
    refuse: int = 0
    revoked: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """All that holds from one notice on. `renew` and `refuse` are for everybody; `authorities`: certificates in DER."""

    sequence: int
    time: int
    authorities: tuple[bytes, ...]
    rulings: tuple[Ruling, ...] = ()
    renew: int = 0
    refuse: int = 0

    def of(self, peer: PeerId) -> Ruling:
        """What holds for a peer, with what holds for everybody."""
        own = next((ruling for ruling in self.rulings if ruling.peer == peer), Ruling(peer))
        renew, refuse = max(own.renew, self.renew), max(own.refuse, self.refuse)
        return Ruling(peer, renew, refuse, own.revoked, own.reason)

    @property
    def revoked(self) -> frozenset[PeerId]:
        """Identities that are not admitted."""
        return frozenset(ruling.peer for ruling in self.rulings if ruling.revoked)

    @property
    def pem(self) -> bytes:
        """The certificates of the authorities that count."""
        return b"".join(pem_of(x509.load_der_x509_certificate(each)) for each in self.authorities)

    def signed(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        """With an authority's word for it. Raises ValueError for more than is read."""
        rulings = [
            pb.Ruling(
                peer=each.peer, renew=each.renew, refuse=each.refuse, revoked=each.revoked, reason=shown(each.reason)
            )
            for each in self.rulings
        ]
        said = pb.Notice(
            sequence=self.sequence,
            time=self.time,
            authorities=self.authorities,
            renew=self.renew,
            refuse=self.refuse,
            rulings=rulings,
        ).SerializeToString(deterministic=True)
        signature = key.sign(PURPOSE + said, ec.ECDSA(hashes.SHA256()))
        data = pb.SignedNotice(notice=said, signature=signature).SerializeToString(deterministic=True)
        if len(data) > MOST_BYTES or len(rulings) > MOST_RULINGS:
            raise ValueError(f"a notice of {len(rulings)} rulings and {len(data)} bytes is more than anybody reads")
        return data


def shown(reason: str) -> str:
    """A reason as a terminal may read it, and no longer than it may be."""
    return "".join(each if each.isprintable() else "?" for each in reason[:MOST_REASON])


def read_notice(data: bytes, authorities: bytes) -> Notice:
    """A notice that one of these authorities (PEM) has signed. Raises Malformed."""
    if len(data) > MOST_BYTES:
        raise Malformed(Refusal.TOO_LARGE, f"a notice of more than {MOST_BYTES} bytes")
    try:
        signed = pb.SignedNotice.FromString(data)
    except DecodeError as error:
        raise Malformed(Refusal.MALFORMED, "not a SignedNotice") from error
    if not any(_vouches(root, signed) for root in x509.load_pem_x509_certificates(authorities)):
        raise Malformed(Refusal.SIGNATURE, "a notice that no authority which counts has signed")
    try:
        said = pb.Notice.FromString(signed.notice)
    except DecodeError as error:
        raise Malformed(Refusal.MALFORMED, "not a Notice") from error
    return _checked(said)


def _vouches(root: x509.Certificate, signed: pb.SignedNotice) -> bool:
    key = root.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signed.signature, PURPOSE + signed.notice, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _checked(said: pb.Notice) -> Notice:
    times = [said.time, said.renew, said.refuse]
    times += [moment for each in said.rulings for moment in (each.renew, each.refuse, each.revoked)]
    names = [each.peer for each in said.rulings]
    if not 0 < said.sequence <= LATEST or max(times) > LATEST or said.time > time.time() + AHEAD:
        raise Malformed(Refusal.MALFORMED, "a notice with a number or a time that cannot be")
    if len(names) > MOST_RULINGS or sorted(set(names)) != names or not all(map(PEER_ID.match, names)):
        raise Malformed(Refusal.MALFORMED, "rulings that are not of single peers in their order")
    if any(len(each.reason) > MOST_REASON for each in said.rulings):
        raise Malformed(Refusal.TOO_LARGE, f"a reason of more than {MOST_REASON} characters")
    rulings = tuple(
        Ruling(PeerId(each.peer), each.renew, each.refuse, each.revoked, shown(each.reason)) for each in said.rulings
    )
    authorities = checked_authorities(said.authorities)
    return Notice(said.sequence, said.time, authorities, rulings, said.renew, said.refuse)


def checked_authorities(given: Sequence[bytes]) -> tuple[bytes, ...]:
    """Certificates (DER) of one authority, or of two. Raises Malformed."""
    if not 1 <= len(given) <= MOST_AUTHORITIES or any(len(each) > MOST_CERTIFICATE for each in given):
        raise Malformed(Refusal.MALFORMED, "not the certificates of one authority, or of two")
    for each in given:
        try:
            x509.load_der_x509_certificate(each)
        except ValueError as error:
            raise Malformed(Refusal.MALFORMED, "an authority without a certificate") from error
    return tuple(given)


def in_der(authorities: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM text."""
    found = x509.load_pem_x509_certificates(authorities)
    return tuple(each.public_bytes(serialization.Encoding.DER) for each in found)


class Admitted:
    """Who counts, by the newest notice that was taken; before there is one, everybody whom the authority let in."""

    def __init__(self, notice: Notice | None = None) -> None:
        self.notice = notice
        self._rulings: dict[PeerId, Ruling] = {}
        self._index()

    def take(self, notice: Notice) -> bool:
        """Whether it is newer than what was known, and holds from now on."""
        if self.notice is not None and notice.sequence <= self.notice.sequence:
            return False
        self.notice = notice
        self._index()
        return True

    def _index(self) -> None:
        self._rulings = {} if self.notice is None else {ruling.peer: ruling for ruling in self.notice.rulings}

    @property
    def sequence(self) -> int:
        """Of the newest notice; 0: there was none."""
        return 0 if self.notice is None else self.notice.sequence

    @property
    def revoked(self) -> frozenset[PeerId]:
        """Identities that are not admitted."""
        return frozenset() if self.notice is None else self.notice.revoked

    def barred(self, peer: PeerId) -> bool:
        """Whether the identity is not admitted any more."""
        return peer in self._rulings and self._rulings[peer].revoked > 0

    def peer_of(self, certificate: bytes) -> PeerId:
        """Whom a TLS certificate (PEM) speaks for now.

        Raises Malformed(SIGNATURE), Malformed(EXPIRED) also for one that was replaced, Malformed(REVOKED).
        """
        peer = peer_id_of(certificate)
        if self.notice is None:
            return peer
        if self.barred(peer):
            raise Malformed(Refusal.REVOKED, "this identity has been revoked")
        own = self._rulings.get(peer)
        if issued_at(certificate) < max(self.notice.refuse, 0 if own is None else own.refuse):
            raise Malformed(Refusal.EXPIRED, "the certificate has been replaced by a newer one")
        return peer
