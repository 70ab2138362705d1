"""An authority's key pair, and the certificates that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.wire.certificate import CLOCK_SKEW, new_key, pem_of, private_pem, subject
from decentral.wire.identity import read_private

NAME = "decentral authority"
LIFE = timedelta(days=3650)
VALIDITY = timedelta(days=7)
"""Of a peer's certificate, at most."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A P-256 key, and the certificate of it that peers pin."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> Self:
        """Valid for ten years."""
        key = new_key()
        builder = _builder(NAME, key.public_key(), LIFE).issuer_name(subject(NAME))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises UserError if it is missing, damaged, or if other users may read it."""
        pem = read_private(file)
        try:
            key = serialization.load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE KEY") :], password=None)
            certificate = x509.load_pem_x509_certificate(pem)
        except (ValueError, TypeError) as error:
            raise UserError(f"{file.parent}: the authority's key is damaged; restore it from a copy") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UserError(f"{file.parent}: the authority's key and certificate do not belong together")
        return cls(key, certificate)

    def save(self, file: Path) -> None:
        """Certificate and key together, so that they never part; the owner's alone."""
        write_atomic(file, self.pem + private_pem(self.key), private=True)

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return pem_of(self.certificate)

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def leaf(
        self, name: str, host: str, key: ec.EllipticCurvePublicKey, validity: timedelta, *extensions: x509.ExtensionType
    ) -> bytes:
        """A certificate (DER) of a key in TLS, for that host name, from now on."""
        builder = _builder(name, key, validity).issuer_name(self.certificate.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        for extension in (issuer, *extensions):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _builder(name: str, key: ec.EllipticCurvePublicKey, validity: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject(name)).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + validity)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
