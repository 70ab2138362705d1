"""What certificates and lists of the revoked have to be before anything that they vouch for counts.

dcap-qvl walks the same chains as a verifier of web servers does: any certificate that the root has signed may then sign
documents, whatever its name and its uses, a list may begin to hold in the future, and the root that a quote embeds is
not looked at. Here each certificate has the one place that Intel gives it (Intel, "SGX PCK certificate and certificate
revocation list profile").
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from decentral.attestation.report import Flaw, NotGenuine

UNREADABLE = (
    ValueError, TypeError, Warning, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound,
    x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What is raised for bytes that are no certificate, no list, or one without what ours have.

A warning is raised only where warnings are errors.
"""


class Role(Enum):
    """Names that Intel's certificates have, by what they may do."""

    ROOT = "Intel SGX Root CA"
    PLATFORM = "Intel SGX PCK Platform CA"
    SINGLE = "Intel SGX PCK Processor CA"
    """Issuer for boards with one processor."""
    SIGNING = "Intel SGX TCB Signing"
    PROCESSOR = "Intel SGX PCK Certificate"

    @property
    def authority(self) -> bool:
        return self in {Role.ROOT, Role.PLATFORM, Role.SINGLE}


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when something is valid, seconds since 1970: first second, and the first one after."""

    begin: int
    end: int

    def check(self, now: int, what: str) -> None:
        """Raises NotGenuine: not yet valid, or expired."""
        if now < self.begin:
            raise NotGenuine(Flaw.FUTURE, f"{what} is valid from {_text(self.begin)}")
        if now >= self.end:
            raise NotGenuine(Flaw.EXPIRED, f"{what} was valid until {_text(self.end)}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that has been looked at."""

    der: bytes
    content: x509.Certificate
    key: ec.EllipticCurvePublicKey
    name: x509.Name
    role: Role
    serial: int
    span: Span


@dataclass(frozen=True, slots=True)
class Revoked:
    """A list that has been looked at."""

    serials: frozenset[int]
    span: Span

    def check(self, certificates: Iterable[Certificate]) -> None:
        """Raises NotGenuine if one of them is on it."""
        for certificate in certificates:
            if certificate.serial in self.serials:
                raise NotGenuine(Flaw.REVOKED, f"{certificate.role.value} {certificate.serial:x}")


def certificate(der: bytes, roles: Iterable[Role], issuer: Certificate | None) -> Certificate:
    """One that has one of these roles, may do what it takes, and is signed by `issuer` (None: by itself).

    Raises NotGenuine: malformed, certificate (another role, or another issuer) or signature.
    """
    try:
        content = x509.load_der_x509_certificate(der)
        name, signed_by, serial, key = content.subject, content.issuer, content.serial_number, content.public_key()
        span = _span(content.not_valid_before_utc, content.not_valid_after_utc)
        constraints = content.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = content.extensions.get_extension_for_class(x509.KeyUsage).value
    except UNREADABLE as error:
        raise NotGenuine(Flaw.MALFORMED, f"a certificate that cannot be read ({error})") from None
    names = [part.value for part in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    role = next((role for role in roles if names == [role.value]), None)
    if role is None:
        raise NotGenuine(Flaw.CERTIFICATE, f"{names} where {' or '.join(role.value for role in roles)} has to be")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise NotGenuine(Flaw.CERTIFICATE, f"{role.value} has no key on P-256")
    may = usage.key_cert_sign and usage.crl_sign if role.authority else usage.digital_signature
    if constraints.ca != role.authority or usage.key_cert_sign != role.authority or not may:
        raise NotGenuine(Flaw.CERTIFICATE, f"{role.value} that may not do what it has done")
    above = issuer.name if issuer else name
    if signed_by != above:
        raise NotGenuine(Flaw.CERTIFICATE, f"{role.value} is issued by {signed_by.rfc4514_string()}")
    try:
        content.verify_directly_issued_by(issuer.content if issuer else content)
    except (InvalidSignature, *UNREADABLE):
        raise NotGenuine(Flaw.SIGNATURE, f"{role.value} is not signed by {above.rfc4514_string()}") from None
    return Certificate(der, content, key, name, role, serial, span)


def revoked(der: bytes, issuer: Certificate) -> Revoked:
    """The list of `issuer`. Raises NotGenuine: malformed, collateral (another's list) or signature."""
    try:
        content = x509.load_der_x509_crl(der)
        name, serials = content.issuer, frozenset(entry.serial_number for entry in content)
        begin, end = content.last_update_utc, content.next_update_utc
        signed = content.is_signature_valid(issuer.key)
    except UNREADABLE as error:
        raise NotGenuine(Flaw.MALFORMED, f"a list of revoked certificates that cannot be read ({error})") from None
    if name != issuer.name:
        raise NotGenuine(Flaw.COLLATERAL, f"the list of {name.rfc4514_string()}, not of {issuer.role.value}")
    if not signed:
        raise NotGenuine(Flaw.SIGNATURE, f"the list of {issuer.role.value} is not signed by it")
    if end is None:
        raise NotGenuine(Flaw.COLLATERAL, f"the list of {issuer.role.value} does not say for how long it holds")
    return Revoked(serials, _span(begin, end))


def _span(begin: datetime.datetime, end: datetime.datetime) -> Span:
    return Span(int(begin.timestamp()), int(end.timestamp()))


def _text(when: int) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat()
