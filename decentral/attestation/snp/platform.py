"""One simulated SEV-SNP processor: the keys that AMD would have put into it, and the reports that it signs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from decentral import canonical
from decentral.attestation.snp.authority import MODELS, SnpAuthority
from decentral.attestation.snp.chain import NAMES
from decentral.attestation.snp.collateral import Collateral
from decentral.attestation.snp.endorsement import Endorsement
from decentral.attestation.snp.report import (
    CHIP_BYTES,
    ECDSA_P384_SHA384,
    POLICY_DEBUG,
    POLICY_RESERVED_ONE,
    POLICY_SMT,
    TCB_BYTES,
    SnpReport,
    TcbVersion,
)
from decentral.errors import Malformed, Refusal

FORMAT = "decentral simulated SEV-SNP processor v1"
SECRET_BYTES = 32
FIRMWARE = TcbVersion(boot_loader=4, tee=0, snp=24, microcode=219)
_P384_ORDER = int("f" * 48 + "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
"""SEC 2, 2.5.1."""
_NO_AGENT = b"\xff" * 32
"""In place of the report id of a migration agent, where there is none."""


@dataclass(frozen=True)
class SnpPlatform:
    """A processor of which a secret of 32 bytes says everything: its chip, its serial, and its key for each firmware.

    `secret`: random for a cluster's processor. `chain`: the certificates (DER) of its key for `firmware`, its own
    first, the root's last. Who holds this can play the processor, but certify no other.
    """

    secret: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    product: str = "Milan"
    firmware: TcbVersion = FIRMWARE

    @classmethod
    def certified(
        cls, authority: SnpAuthority, secret: bytes, now: int, *, firmware: TcbVersion = FIRMWARE
    ) -> SnpPlatform:
        """By this maker at `now` (seconds since 1970), for seven years. Raises ValueError for another secret."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a processor's secret has {SECRET_BYTES} bytes, not {len(secret)}")
        bare = cls(secret, (), authority.product, firmware)
        own = authority.certify(bare.endorsement, bare.key.public_key(), bare.serial, now)
        return replace(bare, chain=(own, authority.signer_certificate, authority.root_certificate))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises Malformed unless `data` is exactly what `to_bytes` gives."""
        found: Any = canonical.decode(data)
        names = {"chain", "firmware", "format", "product", "secret"}
        if not isinstance(found, dict) or found.keys() != names or found["format"] != FORMAT:
            raise Malformed(Refusal.MALFORMED, f"is no {FORMAT}")
        if found["product"] not in list(MODELS):
            raise Malformed(Refusal.MALFORMED, "is of a product that is not simulated")
        if not isinstance(found["chain"], list) or len(found["chain"]) != len(NAMES):
            raise Malformed(Refusal.MALFORMED, f"has no chain of {len(NAMES)} certificates")
        chain = tuple(map(canonical.data, found["chain"]))
        firmware = canonical.data(found["firmware"], TCB_BYTES)
        if TcbVersion.parse(firmware).encode() != firmware:
            raise Malformed(Refusal.MALFORMED, "has firmware with reserved versions")
        return cls(canonical.data(found["secret"], SECRET_BYTES), chain, found["product"], TcbVersion.parse(firmware))

    def to_bytes(self) -> bytes:
        """A file that only its processor may read."""
        return canonical.encode(
            {
                "chain": [canonical.text(certificate) for certificate in self.chain],
                "firmware": canonical.text(self.firmware.encode()),
                "format": FORMAT,
                "product": self.product,
                "secret": canonical.text(self.secret),
            }
        )

    def collateral(self, revoked: bytes) -> Collateral:
        """What its reports need to be believed, with the maker's list of revoked certificates (DER)."""
        return Collateral(self.chain, revoked)

    @property
    def chip(self) -> bytes:
        return self._derived("chip", CHIP_BYTES)

    @property
    def serial(self) -> int:
        """Of its certificates: positive, below 2^64."""
        return int.from_bytes(self._derived("serial", 8), "big") or 1

    @property
    def endorsement(self) -> Endorsement:
        return Endorsement(f"{self.product}-B0", self.firmware, self.chip)

    @cached_property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """Another one for each firmware, so that an old one cannot sign as a newer one."""
        number = int.from_bytes(self._derived("key" + self.firmware.encode().hex(), 64), "big")
        return ec.derive_private_key(number % (_P384_ORDER - 1) + 1, ec.SECP384R1())

    def report(
        self,
        report_data: bytes,
        measurement: bytes,
        *,
        host_data: bytes = bytes(32),
        debug: bool = False,
        id_key_digest: bytes = bytes(48),
        guest_svn: int = 0,
    ) -> bytes:
        """A signed report of 1184 bytes. `report_data`: 64 bytes that the guest has chosen; `measurement`: 48 bytes."""
        policy = POLICY_RESERVED_ONE | POLICY_SMT | (POLICY_DEBUG if debug else 0)
        return self.sign(
            SnpReport(
                version=3,
                guest_svn=guest_svn,
                policy=policy,
                family_id=bytes(16),
                image_id=bytes(16),
                vmpl=0,
                algorithm=ECDSA_P384_SHA384,
                current=self.firmware,
                platform=0b1,
                flags=0,
                report_data=report_data,
                measurement=measurement,
                host_data=host_data,
                id_key_digest=id_key_digest,
                author_key_digest=bytes(48),
                report_id=self._derived("guest" + measurement.hex(), 32),
                agent_report_id=_NO_AGENT,
                reported=self.firmware,
                cpuid=MODELS[self.product],
                chip_id=self.chip,
                committed=self.firmware,
                firmware=bytes([29, 55, 1]),
                committed_firmware=bytes([29, 55, 1]),
                launch=self.firmware,
            )
        )

    def sign(self, report: SnpReport) -> bytes:
        """The bytes of a report, whatever it says, with this processor's signature: equal reports, equal bytes."""
        signature = self.key.sign(report.signed, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
        r, s = decode_dss_signature(signature)
        return replace(report, r=r, s=s).encode()

    def _derived(self, purpose: str, length: int) -> bytes:
        info = b"decentral simulated SEV-SNP processor\0" + purpose.encode()
        return HKDF(hashes.SHA384(), length, None, info).derive(self.secret)
