"""A simulated processor, what a verifier is handed of it, and everything that may be changed about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from decentral.attestation.report import Report
from decentral.attestation.snp.authority import SnpAuthority
from decentral.attestation.snp.collateral import Collateral
from decentral.attestation.snp.platform import SnpPlatform
from decentral.attestation.snp.report import SnpReport, TcbVersion
from decentral.attestation.snp.verification import verify_snp

NOW = 1_800_000_000
DAY = 24 * 3600
DATA, IMAGE = bytes(range(64)), bytes(range(100, 148))


@dataclass(frozen=True)
class World:
    maker: SnpAuthority
    stranger: SnpAuthority

    @cached_property
    def processor(self) -> SnpPlatform:
        return SnpPlatform.certified(self.maker, b"processor".ljust(32), NOW)

    @cached_property
    def neighbour(self) -> SnpPlatform:
        """Another processor of the same maker."""
        return SnpPlatform.certified(self.maker, b"neighbour".ljust(32), NOW)

    @cached_property
    def report(self) -> bytes:
        return self.processor.report(DATA, IMAGE)

    @cached_property
    def collateral(self) -> Collateral:
        return self.processor.collateral(self.maker.revoked(NOW))

    @cached_property
    def older(self) -> SnpPlatform:
        """The processor with firmware of before."""
        return SnpPlatform.certified(self.maker, self.processor.secret, NOW, firmware=TcbVersion(3, 0, 8, 115))

    def papers_of(self, processor: SnpPlatform) -> bytes:
        return processor.collateral(self.maker.revoked(NOW)).encode()

    def signed(self, **changes: Any) -> bytes:
        """A report that says something else, signed by the processor."""
        return self.processor.sign(replace(SnpReport.parse(self.report), **changes))

    def spoilt(self, place: int, mask: int = 0xFF) -> bytes:
        """The report with bits turned over after it was signed."""
        found = bytearray(self.report)
        found[place] ^= mask
        return bytes(found)

    def with_processor(self, starts: int = NOW, *, maker: SnpAuthority | None = None, **knobs: Any) -> bytes:
        """Collateral with another certificate of the processor, by a maker with other certificates."""
        by, processor = maker or self.maker, self.processor
        key = knobs.pop("key", processor.key.public_key())
        endorsement = knobs.pop("endorsement", processor.endorsement)
        certificate = by.certify(endorsement, key, processor.serial, starts, **knobs)
        chain = (certificate, by.signer_certificate, by.root_certificate)
        return Collateral(chain, by.revoked(NOW)).encode()

    @property
    def stranger_processor(self) -> bytes:
        """The certificate of our processor, by the stranger."""
        return SnpPlatform.certified(self.stranger, self.processor.secret, NOW).chain[0]

    def with_extensions(self, changed: Mapping[x509.ObjectIdentifier, bytes | None]) -> bytes:
        return self.with_processor(changed=changed)

    def with_chain(self, *chain: bytes) -> bytes:
        return replace(self.collateral, chain=chain).encode()

    def with_list(self, revoked: bytes) -> bytes:
        return replace(self.collateral, revoked=revoked).encode()

    def signed_otherwise(self, rsa_padding: padding.PSS | padding.PKCS1v15, algorithm: Any, critical: bool) -> bytes:
        """Collateral whose processor's certificate is signed in another way, or has a critical part of its own."""
        found = x509.load_der_x509_certificate(self.collateral.chain[0])
        builder = x509.CertificateBuilder(found.issuer, found.subject, found.public_key(), found.serial_number)
        builder = builder.not_valid_before(found.not_valid_before_utc).not_valid_after(found.not_valid_after_utc)
        for extension in found.extensions:
            builder = builder.add_extension(extension.value, critical)
        signed = builder.sign(self.maker.signer_key, algorithm, rsa_padding=rsa_padding)
        return self.with_chain(signed.public_bytes(serialization.Encoding.DER), *self.collateral.chain[1:])

    def list_of_changes(self) -> bytes:
        """Collateral with a list that the root has signed, of what is new since another one."""
        found = x509.load_der_x509_crl(self.collateral.revoked)
        assert found.next_update_utc is not None
        builder = x509.CertificateRevocationListBuilder(found.issuer, found.last_update_utc, found.next_update_utc)
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        signed = builder.sign(self.maker.root_key, hashes.SHA384(), rsa_padding=SHA384_PSS)
        return self.with_list(signed.public_bytes(serialization.Encoding.DER))

    def list_without_end(self) -> bytes:
        """Collateral with a list that the root has signed and that never ends (the library writes none: by hand)."""
        before, signed, after = self.collateral.revoked.partition(
            x509.load_der_x509_crl(self.collateral.revoked).tbs_certlist_bytes
        )
        times = signed.index(b"\x17\x0d")  # UTCTime of 13 bytes, twice
        content = signed[3 : times + 15] + signed[times + 30 :]
        signed = bytes([0x30, 0x81, len(content)]) + content
        algorithm = after[: -5 - 512]
        signature = self.maker.root_key.sign(signed, SHA384_PSS, hashes.SHA384())
        whole = signed + algorithm + after[-5 - 512 : -512] + signature
        return self.with_list(before[:2] + len(whole).to_bytes(2, "big") + whole)

    def verified(self, report: bytes | None = None, collateral: bytes | None = None, now: int = NOW) -> Report:
        papers = self.collateral.encode() if collateral is None else collateral
        return verify_snp(self.report if report is None else report, papers, [self.maker.root], now)


SHA384_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
P256 = ec.derive_private_key(7, ec.SECP256R1()).public_key()
