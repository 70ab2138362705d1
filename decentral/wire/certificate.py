"""What a peer shows in TLS: a rotating P-256 key, certified by the cluster's authority and by the peer's own identity.

gRPC accepts no Ed25519 certificates, so the identity key signs the TLS key instead (the binding, a private extension of
the certificate). Both signatures are checked: the authority's says that the peer was let in, the identity's says who it
is, and an authority that lies cannot make up the second.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID

from decentral.errors import Malformed, Refusal, UserError
from decentral.files import Vault, write_atomic
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, read_private, verify, write_private
from decentral.wire.messages import PeerId

BINDING_OID = x509.ObjectIdentifier("2.25.210555893739170554527821817351210758994")
"""An arc of our own: 2.25 holds every UUID, with no registration (ITU-T X.667)."""

TLS = "tls.pem"
"""The file, in a peer's folder, of a certificate and its key."""
AUTHORITIES = "authority.pem"
"""Beside it: the certificates of the authorities that the peer trusts."""
CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid from this long before it was made, because clocks differ."""

BINDING_BYTES = PUBLIC_KEY_BYTES + 8 + SIGNATURE_BYTES
_DER_OCTETS = bytes([0x04, BINDING_BYTES])  # an extension's value is DER: OCTET STRING, length below 128


def host_name(peer: PeerId) -> str:
    """The name in a peer's certificate, which a client demands of the server that it dials."""
    return f"{peer}.peer.decentral"


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(certificate: x509.Certificate) -> bytes:
    """In PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def public_info(key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def bind(identity: Identity, key: ec.EllipticCurvePublicKey, expires: float) -> x509.UnrecognizedExtension:
    """The identity's word that this TLS key speaks for it until `expires` (Unix seconds)."""
    until = int(expires).to_bytes(8, "big")
    signature = identity.sign("tls-key", until + public_info(key))
    return x509.UnrecognizedExtension(BINDING_OID, _DER_OCTETS + identity.public_key + until + signature)


@dataclass(frozen=True, slots=True)
class Bound:
    """Whose TLS key it is, and from when until when (Unix seconds)."""

    peer: PeerId
    starts: float
    expires: float


def read_binding(document: x509.Certificate | x509.CertificateSigningRequest) -> Bound:
    """Whose key a certificate or a request for one carries. Raises Malformed(SIGNATURE)."""
    key = document.public_key()
    try:
        extension = document.extensions.get_extension_for_oid(BINDING_OID).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise Malformed(Refusal.SIGNATURE, "a certificate without an identity's binding") from error
    if not isinstance(extension, x509.UnrecognizedExtension) or not isinstance(key, ec.EllipticCurvePublicKey):
        raise Malformed(Refusal.SIGNATURE, "a binding of another kind of key")
    value = extension.value
    if len(value) != len(_DER_OCTETS) + BINDING_BYTES or not value.startswith(_DER_OCTETS):
        raise Malformed(Refusal.SIGNATURE, "a binding of another length")
    value = value[len(_DER_OCTETS) :]
    public_key, until, signature = value[:PUBLIC_KEY_BYTES], value[PUBLIC_KEY_BYTES:-SIGNATURE_BYTES], value[-64:]
    peer = verify(public_key, "tls-key", until + public_info(key), signature)
    return Bound(peer, 0.0, float(int.from_bytes(until, "big")))


@lru_cache(maxsize=4096)
def _bound_by(pem: bytes) -> Bound:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        bound = read_binding(certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Malformed(Refusal.SIGNATURE, "not a peer's certificate") from error
    if names.get_values_for_type(x509.DNSName) != [host_name(bound.peer)]:
        raise Malformed(Refusal.SIGNATURE, "a certificate whose name is not its identity's")
    starts, expires = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return Bound(bound.peer, starts, min(expires, bound.expires))


def peer_id_of(pem: bytes, at: float | None = None) -> PeerId:
    """The identity that a TLS certificate in PEM speaks for at a time (Unix seconds; None is now).

    The authority's signature is TLS's to check; this checks the identity's (once per certificate) and the time (at
    every call: a connection may outlive its certificate). Raises Malformed(SIGNATURE) or Malformed(EXPIRED).
    """
    bound = _bound_by(pem)
    now = time.time() if at is None else at
    if not bound.starts <= now < bound.expires:
        raise Malformed(Refusal.EXPIRED, "the certificate is not valid at this time")
    return bound.peer


def issued_at(pem: bytes) -> float:
    """When (Unix seconds) an authority has made a peer's certificate. Raises Malformed(SIGNATURE)."""
    return _bound_by(pem).starts + CLOCK_SKEW.total_seconds()


def request_certificate(identity: Identity, key: ec.EllipticCurvePrivateKey, expires: float) -> bytes:
    """A PKCS#10 request in DER: signed with the TLS key, and carrying the identity's binding of it."""
    binding = bind(identity, key.public_key(), expires)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(identity.id))
    request = builder.add_extension(binding, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a peer needs for mutual TLS, all in PEM: its certificate, that key, and the authority it trusts.

    While one authority takes over from another, `authority` is the certificates of both.
    """

    certificate: bytes
    key: bytes
    authority: bytes

    @property
    def peer(self) -> PeerId:
        return _bound_by(self.certificate).peer

    @property
    def expires(self) -> float:
        """Unix seconds."""
        return _bound_by(self.certificate).expires

    @property
    def issued(self) -> float:
        """Unix seconds."""
        return issued_at(self.certificate)

    def save(self, folder: Path, vault: Vault | None = None) -> None:
        """Writes `tls.pem` (certificate and key together, so that they never part) and `authority.pem`."""
        write_atomic(folder / AUTHORITIES, self.authority, private=True)
        write_private(folder / TLS, self.certificate + self.key, vault)

    @classmethod
    def load(cls, folder: Path, vault: Vault | None = None) -> Credentials:
        """Raises UserError if a file is missing, damaged, or readable by other users, or if no vault opens it."""
        content = read_private(folder / TLS) if vault is None else vault.read(folder / TLS)
        certificate, begin, key = content.partition(b"-----BEGIN PRIVATE KEY-----")
        credentials = cls(certificate, begin + key, read_private(folder / AUTHORITIES))
        try:
            credentials.check(credentials.peer)
        except Malformed as error:
            raise UserError(f"{folder}: damaged TLS credentials ({error.detail}); enrol this peer again") from None
        return credentials

    def check(self, peer: PeerId) -> None:
        """Raises Malformed unless these three belong together and speak for `peer`."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate)
            roots = x509.load_pem_x509_certificates(self.authority)
            key = serialization.load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError) as error:
            raise Malformed(Refusal.SIGNATURE, "not a certificate, a key and an authority") from error
        if not any(issued_by(certificate, root) for root in roots):
            raise Malformed(Refusal.SIGNATURE, "a certificate that the authority did not sign")
        if key.public_key() != certificate.public_key() or self.peer != peer:
            raise Malformed(Refusal.SIGNATURE, "a certificate for another key or another peer")


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether this authority has signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def show(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Has a handshake show a certificate and prove its key (both PEM).

    The ssl module reads keys from files only: this one never touches a disk, where the system has files in memory.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb") as file:
            file.write(certificate + key)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(file.name)
