"""A maker of processors that is none: root, certificates, lists and documents as Intel has them, under a key of ours.

All follows from a secret, so that the same secret gives the same root, byte for byte. Every way in which a certificate,
a list or a document can be bad is an argument somewhere, so that what is refused can be shown.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from decentral.attestation.report import Root, Technology
from decentral.attestation.tdx import pem
from decentral.attestation.tdx.chains import Role, Span
from decentral.attestation.tdx.collateral import Collateral, time_text
from decentral.attestation.tdx.pck import COMPONENTS, Pck

SECRET_BYTES = 32
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256's group."""
MONTH = 30 * 86400
"""For how long lists and documents are valid, in seconds."""
FAMILY = bytes.fromhex("50806f000000")
"""FMSPC of simulated processors."""
NEWEST, PCE_VERSION = bytes([6, 6, 2, 2, 4, 1, 0, 5]) + bytes(8), 13
"""Security versions of a simulated processor that is up to date."""
MODULE = bytes([6, 1, 4]) + bytes(13)
"""TEE_TCB_SVN: a TDX module 1 of security version 6, and late microcode 4."""
ENCLAVE_SIGNER = hashlib.sha256(b"who signs the simulated quoting enclave").digest()
ENCLAVE_PRODUCT, ENCLAVE_VERSION = 2, 6
ENCLAVE_ATTRIBUTES = bytes([0x15]) + bytes(7) + bytes([0xE7]) + bytes(7)


ALWAYS = Span(1526899810, 2524607999)
"""From May 2018 to the end of 2049, as Intel's root."""


@dataclass(frozen=True, slots=True)
class Level:
    """What is thought of a processor that has at least these versions. `status` in Intel's words."""

    components: bytes = NEWEST
    module: bytes = bytes([5, 0, 4]) + bytes(13)
    pce_version: int = PCE_VERSION
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        tcb = {
            "sgxtcbcomponents": [{"svn": version} for version in self.components],
            "pcesvn": self.pce_version,
            "tdxtcbcomponents": [{"svn": version} for version in self.module],
        }
        found = {"tcb": tcb, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": self.status}
        return found | ({"advisoryIDs": list(self.advisories)} if self.advisories else {})


LEVELS = (
    Level(),
    Level(components=bytes(COMPONENTS), pce_version=5, module=bytes(16), status="OutOfDate",
          advisories=("SIMULATED-SA-00001",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signer:
    """A key with the certificate that says what it may sign."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, data: bytes) -> bytes:
        """64 bytes, r and s."""
        return signature(self.key, data)

    def issue(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        *,
        serial: int,
        span: Span = ALWAYS,
        path: int | None = None,
        signing: bool = True,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Signer:
        """A certificate by this one: of a CA with at most `path` others below it, or else of one that may sign."""
        content = _certificate(
            self, key, name, serial=serial, span=span, path=path, signing=signing, extensions=extensions
        )
        return Signer(key, content)

    def revoke(self, serials: Iterable[int], span: Span) -> bytes:
        """The list (DER) of what this one has issued and no longer stands for."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_time(span.begin))
            .next_update(_time(span.end))
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(span.begin))
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self.key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


class TdxAuthority:
    """`secret`: 32 bytes from which all keys and serial numbers follow."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        self._secret = secret

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        return private_key(self._secret, name)

    def serial(self, name: str) -> int:
        return int.from_bytes(derived(self._secret, f"serial of {name}", 20), "big") >> 1

    @cached_property
    def ca(self) -> Signer:
        """The root, which signs itself."""
        key, serial = self.key("root"), self.serial("root")
        return Signer(key, _certificate(None, key, Role.ROOT.value, serial=serial, path=1))

    @property
    def root(self) -> Root:
        """What a verifier pins: a simulation's."""
        return Root(Technology.TDX, self.ca.der, simulated=True)

    @cached_property
    def platforms(self) -> Signer:
        """Issues processors' certificates."""
        return self.ca.issue(self.key("platform CA"), Role.PLATFORM.value, serial=self.serial("platform CA"), path=0)

    @cached_property
    def documents(self) -> Signer:
        """Signs what is published."""
        return self.ca.issue(self.key("TCB signing"), Role.SIGNING.value, serial=self.serial("TCB signing"))

    def processor(self, key: ec.EllipticCurvePrivateKey, pck: Pck, *, span: Span = ALWAYS) -> Signer:
        """A processor's own key with the certificate for it."""
        serial = self.serial(f"processor {pck.ppid.hex()}")
        name = Role.PROCESSOR.value
        return self.platforms.issue(key, name, serial=serial, span=span, extensions=(pck.extension(),))

    def collateral(
        self,
        now: int,
        *,
        levels: Sequence[Level] = LEVELS,
        revoked: Iterable[int] = (),
        revoked_by_root: Iterable[int] = (),
        lists: Span | None = None,
        tcb_info: dict[str, Any] | None = None,
        qe_identity: dict[str, Any] | None = None,
        signer: Signer | None = None,
        issuers: Signer | None = None,
    ) -> Collateral:
        """All that is published at `now` (seconds), valid for a month.

        `levels`: what is thought of versions, best first. `revoked`, `revoked_by_root`: serial numbers. `tcb_info` and
        `qe_identity`: entries of the documents that are to be others. `signer`, `issuers`: in place of the certificate
        that signs documents, and of the processors' issuer.
        """
        month = Span(now, now + MONTH)
        signer, issuers, lists = signer or self.documents, issuers or self.platforms, lists or month
        tcb = json.dumps(_tcb_info(month, levels) | (tcb_info or {}), separators=(",", ":"))
        qe = json.dumps(_qe_identity(month) | (qe_identity or {}), separators=(",", ":"))
        chain = pem.written((signer.der, self.ca.der))
        return Collateral(
            pck_crl_issuer_chain=pem.written((issuers.der, self.ca.der)),
            root_ca_crl=self.ca.revoke(revoked_by_root, lists),
            pck_crl=issuers.revoke(revoked, lists),
            tcb_info_issuer_chain=chain,
            tcb_info=tcb,
            tcb_info_signature=signer.sign(tcb.encode()),
            qe_identity_issuer_chain=chain,
            qe_identity=qe,
            qe_identity_signature=signer.sign(qe.encode()),
        )


def derived(secret: bytes, name: str, length: int) -> bytes:
    """Bytes that follow from the secret for this name alone."""
    return HKDF(hashes.SHA256(), length, None, b"decentral simulated tdx " + name.encode()).derive(secret)


def private_key(secret: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    """On P-256; 48 bytes modulo the order are as good as uniform."""
    return ec.derive_private_key(
        1 + int.from_bytes(derived(secret, f"key of {name}", 48), "big") % (ORDER - 1), ec.SECP256R1()
    )


def signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256: r and s in 32 bytes each."""
    numbers = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def _certificate(
    issuer: Signer | None,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    *,
    serial: int,
    path: int | None,
    span: Span = ALWAYS,
    signing: bool = True,
    extensions: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    authority = path is not None
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulation")]
    )
    usage = x509.KeyUsage(
        digital_signature=signing and not authority, content_commitment=signing and not authority,
        key_encipherment=not signing, data_encipherment=False, key_agreement=False, key_cert_sign=authority,
        crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    above = issuer.key.public_key() if issuer else key.public_key()
    builder = (
        x509.CertificateBuilder()
        .serial_number(serial)
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .not_valid_before(_time(span.begin))
        .not_valid_after(_time(span.end))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(authority, path), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer.key if issuer else key, hashes.SHA256(), ecdsa_deterministic=True)


def _time(when: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(when, datetime.UTC)


def _tcb_info(span: Span, levels: Sequence[Level]) -> dict[str, Any]:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    modules = [{"tcb": {"isvsvn": 5}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"}]
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": time_text(span.begin),
        "nextUpdate": time_text(span.end),
        "fmspc": FAMILY.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 17,
        "tdxModule": module,
        "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": modules}],
        "tcbLevels": [level.content() for level in levels],
    }


def _qe_identity(span: Span) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": time_text(span.begin),
        "nextUpdate": time_text(span.end),
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00" * 4,
        "miscselectMask": "FF" * 4,
        "attributes": "11" + "00" * 15,
        "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8,
        "mrsigner": ENCLAVE_SIGNER.hex().upper(),
        "isvprodid": ENCLAVE_PRODUCT,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"}],
    }
