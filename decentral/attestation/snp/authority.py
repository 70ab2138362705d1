"""A simulated maker of SEV-SNP processors: its root, its signing key, and what they certify and revoke.

It signs as AMD does (57230), with keys of the same kinds, so that the verifier that hardware needs is the one that a
simulation needs; its names say that it is one. RSA keys follow from no seed here: an authority is made once (a second
or two) and kept as bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from decentral import canonical
from decentral.attestation.report import Root, Technology
from decentral.attestation.snp.documents import RSA_BITS, UNREADABLE
from decentral.attestation.snp.endorsement import Endorsement
from decentral.errors import Malformed, UserError

YEAR = 365 * 24 * 3600
AUTHORITY_SECONDS = 25 * YEAR
PROCESSOR_SECONDS = 7 * YEAR
LIST_SECONDS = YEAR // 12
ROOT_SERIAL, SIGNER_SERIAL = 0x10000, 0x10001
MODELS = {"Milan": bytes([0x19, 0x01, 0x01]), "Genoa": bytes([0x19, 0x11, 0x01])}
"""Products that are simulated, and the family, model and stepping that CPUID tells of each."""
FORMAT = "decentral simulated SEV-SNP authority v1"

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)


@dataclass(frozen=True, slots=True)
class SnpAuthority:
    """The root (ARK) and the signing key (ASK) of a simulated maker. Periods are in seconds since 1970."""

    product: str
    root_key: rsa.RSAPrivateKey = field(repr=False)
    signer_key: rsa.RSAPrivateKey = field(repr=False)
    root_certificate: bytes = field(repr=False)
    signer_certificate: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.product not in MODELS:
            raise ValueError(f"{self.product!r} is not simulated: {', '.join(MODELS)} are")

    @classmethod
    def create(cls, now: int, product: str = "Milan") -> SnpAuthority:
        """A new one, valid from `now` for 25 years, as AMD's are. Raises ValueError for another product."""
        root_key, signer_key = (rsa.generate_private_key(65537, RSA_BITS) for _ in range(2))
        return cls(product, root_key, signer_key, b"", b"").with_root(now).with_signer(now)

    def with_root(
        self,
        starts: int,
        *,
        seconds: int = AUTHORITY_SECONDS,
        path_length: int | None = None,
        revokes: bool = True,
    ) -> SnpAuthority:
        """The same keys, with another certificate of the root: one that may not certify an authority (a path of length
        0), or not revoke, is one that a verifier has to refuse.
        """
        key = self.root_key.public_key()
        builder = _certificate(self.root_name, self.root_name, key, ROOT_SERIAL, starts=starts, seconds=seconds)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        builder = builder.add_extension(_usage(certifies=True, revokes=revokes), critical=True)
        return replace(self, root_certificate=_signed(builder, self.root_key))

    def with_signer(
        self,
        starts: int,
        *,
        seconds: int = AUTHORITY_SECONDS,
        serial: int = SIGNER_SERIAL,
        certifies: bool = True,
        issuer: SnpAuthority | None = None,
    ) -> SnpAuthority:
        """The same keys, with another certificate of the signing key: one that may not certify others, or is issued by
        another authority, is one that a verifier has to refuse.
        """
        by = issuer or self
        key = self.signer_key.public_key()
        builder = _certificate(self.signer_name, by.root_name, key, serial, starts=starts, seconds=seconds)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.root_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        constraints = x509.BasicConstraints(ca=certifies, path_length=0 if certifies else None)
        builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(_usage(certifies=certifies, revokes=False), critical=True)
        return replace(self, signer_certificate=_signed(builder, by.root_key))

    @classmethod
    def from_bytes(cls, data: bytes) -> SnpAuthority:
        """What `to_bytes` wrote. Raises UserError."""
        try:
            found = canonical.decode(data)
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                raise ValueError("it has another format")
            keys = {
                name: serialization.load_der_private_key(
                    canonical.data(found.pop(name)),
                    None,
                    unsafe_skip_rsa_key_validation=True,  # half a second to look for primes in a file of our own
                )
                for name in ("root_key", "signer_key")
            }
            root_key, signer_key = keys["root_key"], keys["signer_key"]
            if not isinstance(root_key, rsa.RSAPrivateKey) or not isinstance(signer_key, rsa.RSAPrivateKey):
                raise TypeError("its keys are of another kind")
            certificates = [canonical.data(found[name]) for name in ("root_certificate", "signer_certificate")]
            for key, certificate in zip((root_key, signer_key), certificates, strict=True):
                if x509.load_der_x509_certificate(certificate).public_key() != key.public_key():
                    raise ValueError("its keys and certificates do not belong together")
            return cls(str(found["product"]), root_key, signer_key, *certificates)
        except (Malformed, KeyError, *UNREADABLE) as error:
            raise UserError(f"no simulated SEV-SNP authority ({error}): restore the file, or make a new one") from error

    def to_bytes(self) -> bytes:
        """Everything, private keys too: for a file that its owner alone may read."""
        return canonical.encode(
            {
                "format": FORMAT,
                "product": self.product,
                "root_certificate": canonical.text(self.root_certificate),
                "root_key": canonical.text(_private(self.root_key)),
                "signer_certificate": canonical.text(self.signer_certificate),
                "signer_key": canonical.text(_private(self.signer_key)),
            }
        )

    @property
    def root(self) -> Root:
        """For verifiers to pin."""
        return Root(Technology.SNP, self.root_certificate, simulated=True)

    @property
    def starts(self) -> int:
        """Since when its root is valid, seconds since 1970."""
        return int(x509.load_der_x509_certificate(self.root_certificate).not_valid_before_utc.timestamp())

    @property
    def root_name(self) -> x509.Name:
        return _name(f"ARK-{self.product}")

    @property
    def signer_name(self) -> x509.Name:
        return _name(f"SEV-{self.product}")

    def certify(
        self,
        endorsement: Endorsement,
        key: Key,
        serial: int,
        starts: int,
        *,
        seconds: int = PROCESSOR_SECONDS,
        certifies: bool = False,
        by_root: bool = False,
        changed: Mapping[x509.ObjectIdentifier, bytes | None] | None = None,
    ) -> bytes:
        """A processor's certificate (VCEK, DER).

        What a verifier has to refuse: one that may certify others, one that the root has signed itself, and one with
        extensions `changed` (None: left out).
        """
        issuer, signer = (self.root_name, self.root_key) if by_root else (self.signer_name, self.signer_key)
        builder = _certificate(_name("SEV-VCEK"), issuer, key, serial, starts=starts, seconds=seconds)
        for oid, value in {**endorsement.extensions(), **(changed or {})}.items():
            if value is not None:
                builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        if certifies:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            builder = builder.add_extension(_usage(certifies=True, revokes=False), critical=True)
        return _signed(builder, signer)

    def revoked(
        self, issued: int, serials: Collection[int] = (), *, seconds: int = LIST_SECONDS, by_signer: bool = False
    ) -> bytes:
        """The list of revoked certificates (DER) by their serials.

        By the signing key, in the root's name: one that a verifier has to refuse.
        """
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.root_name)
        builder = builder.last_update(_time(issued)).next_update(_time(issued + seconds))
        for serial in sorted(serials):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(issued)).build()
            builder = builder.add_revoked_certificate(entry)
        key = self.signer_key if by_signer else self.root_key
        return builder.sign(key, hashes.SHA384(), rsa_padding=_PSS).public_bytes(serialization.Encoding.DER)


def _name(common: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, "decentral, a simulation"), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: Key, serial: int, *, starts: int, seconds: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(serial)
    return builder.not_valid_before(_time(starts)).not_valid_after(_time(starts + seconds))


def _signed(builder: x509.CertificateBuilder, key: rsa.RSAPrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA384(), rsa_padding=_PSS).public_bytes(serialization.Encoding.DER)


def _private(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, certifies: bool, revokes: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=revokes,
        encipher_only=False,
        decipher_only=False,
    )
