"""From a processor's certificate to a root: who may sign what, and until when.

Source: AMD 57230: a processor's key (VCEK, ECDSA over P-384) is certified by AMD's signing key (ASK) and this one by
AMD's root (ARK), both RSA of 4096 bits with PSS and SHA-384; the root also signs the list of revoked certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.documents import (
    RSA_BITS,
    UNREADABLE,
    reading,
    refuse_another_form,
    refuse_out_of_date,
)

NAMES = ("the VCEK", "the ASK", "the ARK")
_UNDERSTOOD = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)
"""Extensions that may be critical."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The certificates of a processor, of the key that certifies processors, and of the root."""

    processor: x509.Certificate
    signer: x509.Certificate
    root: x509.Certificate

    @classmethod
    def read(cls, certificates: Sequence[bytes]) -> Chain:
        """From DER, the processor's first. Raises NotGenuine: MALFORMED if one cannot be read, CERTIFICATE if they are
        more or fewer than three, or of another kind, NOT_CANONICAL if one is written in another form.
        """
        if len(certificates) != len(NAMES):
            raise NotGenuine(Flaw.CERTIFICATE, f"a chain of {len(certificates)} certificates, not {len(NAMES)}")
        return cls(*(_read(name, data) for name, data in zip(NAMES, certificates, strict=True)))

    @property
    def named(self) -> tuple[tuple[str, x509.Certificate], ...]:
        return tuple(zip(NAMES, (self.processor, self.signer, self.root), strict=True))

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The processor's. Raises NotGenuine(CERTIFICATE) if it is of another kind than processors have."""
        key = self.processor.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise NotGenuine(Flaw.CERTIFICATE, "the VCEK's key is not one of ECDSA over P-384")
        return key

    @property
    def ends(self) -> int:
        """When the first of the three ends, seconds since 1970."""
        return min(_period(certificate)[1] for _, certificate in self.named)

    def verify(self, now: int) -> None:
        """Raises NotGenuine (CERTIFICATE, SIGNATURE, FUTURE, EXPIRED) unless each may sign what it has signed and all
        are valid at `now` (seconds since 1970). Whether the root is one to trust is for the caller to say.
        """
        _refuse_unless_authority("the ARK", self.root, authorities_below=1)
        _refuse_unless_authority("the ASK", self.signer, authorities_below=0)
        _refuse_authority("the VCEK", self.processor)
        _ = self.key
        issuers = (self.signer, self.root, self.root)
        for (name, certificate), issuer in reversed(list(zip(self.named, issuers, strict=True))):
            if certificate.issuer != issuer.subject:
                raise NotGenuine(Flaw.CERTIFICATE, f"{name} is issued by another one than the next in the chain")
            try:
                certificate.verify_directly_issued_by(issuer)
            except InvalidSignature:
                raise NotGenuine(Flaw.SIGNATURE, f"{name} is not signed by whom it names") from None
            except UNREADABLE as error:
                raise NotGenuine(Flaw.CERTIFICATE, f"{name} cannot be checked: {error}") from error
            refuse_out_of_date(name, *_period(certificate), now)


def _read(name: str, data: bytes) -> x509.Certificate:
    """Everything that is asked for later is looked into once, so that what cannot be read is found here."""
    with reading(name):
        certificate = x509.load_der_x509_certificate(data)
        refuse_another_form(name, data, certificate.tbs_certificate_bytes, certificate)
        unknown = [one.oid for one in certificate.extensions if one.critical and one.oid not in _UNDERSTOOD]
        _ = certificate.issuer, certificate.subject, certificate.public_key(), _period(certificate)
    if unknown:
        raise NotGenuine(Flaw.CERTIFICATE, f"{name} demands to be read with {unknown[0].dotted_string}")
    return certificate


def _period(certificate: x509.Certificate) -> tuple[int, int]:
    return int(certificate.not_valid_before_utc.timestamp()), int(certificate.not_valid_after_utc.timestamp())


def _refuse_unless_authority(name: str, certificate: x509.Certificate, authorities_below: int) -> None:
    constraints, usage = _roles(certificate)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise NotGenuine(Flaw.CERTIFICATE, f"{name} may not certify others")
    if constraints.path_length is not None and constraints.path_length < authorities_below:
        raise NotGenuine(Flaw.CERTIFICATE, f"{name} may not certify those who certify others")
    if authorities_below and not usage.crl_sign:
        raise NotGenuine(Flaw.CERTIFICATE, f"{name} may not revoke certificates")
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS:
        raise NotGenuine(Flaw.CERTIFICATE, f"{name} has no key of RSA with {RSA_BITS} bits")


def _refuse_authority(name: str, certificate: x509.Certificate) -> None:
    constraints, usage = _roles(certificate)
    if (constraints is not None and constraints.ca) or (usage is not None and usage.key_cert_sign):
        raise NotGenuine(Flaw.CERTIFICATE, f"{name} is of somebody who certifies others, not of a processor")


def _roles(certificate: x509.Certificate) -> tuple[x509.BasicConstraints | None, x509.KeyUsage | None]:
    values = [extension.value for extension in certificate.extensions]
    constraints = [value for value in values if isinstance(value, x509.BasicConstraints)]
    usage = [value for value in values if isinstance(value, x509.KeyUsage)]
    return constraints[0] if constraints else None, usage[0] if usage else None
