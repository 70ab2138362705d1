"""One simulated processor: everything that a real one signs, without the walls around it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from decentral import canonical
from decentral.attestation.report import REGISTER_BYTES
from decentral.attestation.tdx.authority import (
    ENCLAVE_ATTRIBUTES,
    ENCLAVE_PRODUCT,
    ENCLAVE_SIGNER,
    ENCLAVE_VERSION,
    FAMILY,
    MODULE,
    NEWEST,
    PCE_VERSION,
    SECRET_BYTES,
    Signer,
    TdxAuthority,
    derived,
    private_key,
    signature,
)
from decentral.attestation.tdx.pck import COMPONENTS, Pck
from decentral.attestation.tdx.quote import CHAIN, QE_DATA_BYTES, REGISTERS, EnclaveReport, TdReport, TdxQuote
from decentral.errors import Malformed, Refusal

FORMAT = "decentral simulated tdx platform v1"
DEBUG = 1
"""Bit of a guest's attributes: the host can look into it."""
SEPT_VE_DISABLE = 1 << 28
"""Bit of a guest's attributes: the host cannot take a page from under it and have it notified."""
FEATURES = bytes.fromhex("e702060000000000")
"""XFAM: registers of vectors and tiles."""
ZERO = bytes(REGISTER_BYTES)


@dataclass(frozen=True)
class TdxPlatform:
    """A processor with keys that follow from `secret` (32 bytes), and the chain (DER, leaf first) that certifies it.

    `components`: 16 security versions of its firmware. Who holds this can play the processor, but certify no other.
    """

    secret: bytes = field(repr=False)
    chain: tuple[bytes, ...]
    components: bytes = NEWEST

    @classmethod
    def certified(
        cls,
        authority: TdxAuthority,
        secret: bytes,
        *,
        components: bytes = NEWEST,
        pce_version: int = PCE_VERSION,
        family: bytes = FAMILY,
        signer: Signer | None = None,
    ) -> Self:
        """By this maker, with these versions; or with the certificate of `signer`, whatever it says."""
        pck = Pck(
            ppid=derived(secret, "PPID", 16), instance=derived(secret, "board", 16), fmspc=family,
            components=components, pce_version=pce_version,
        )  # fmt: skip
        signer = signer or authority.processor(private_key(secret, "PCK"), pck)
        return cls(secret, (signer.der, authority.platforms.der, authority.ca.der), components)

    @property
    def serial(self) -> int:
        """Of the processor's certificate."""
        return x509.load_der_x509_certificate(self.chain[0]).serial_number

    @cached_property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The processor's own (PCK), which vouches for the quoting enclave."""
        return private_key(self.secret, "PCK")

    @cached_property
    def attestation_key(self) -> ec.EllipticCurvePrivateKey:
        """The quoting enclave's."""
        return private_key(self.secret, "attestation")

    def quote(
        self,
        report_data: bytes,
        mr_td: bytes,
        registers: Sequence[bytes] = (ZERO,) * REGISTERS,
        *,
        debug: bool = False,
        module: bytes = MODULE,
        attributes: int = SEPT_VE_DISABLE,
        configuration: bytes = ZERO,
        owner: bytes = ZERO,
    ) -> bytes:
        """A quote of 64 bytes `report_data` for a guest with this image and these registers (48 bytes each).

        `module`: 16 security versions of the TDX module. `configuration`, `owner`: what the host gave along, 48 bytes
        each. Raises ValueError where one has another length.
        """
        report = TdReport(
            tee_tcb_svn=module, mr_seam=hashlib.sha384(b"simulated TDX module").digest(), mr_signer_seam=ZERO,
            seam_attributes=bytes(8), attributes=(attributes | DEBUG * debug).to_bytes(8, "little"), xfam=FEATURES,
            mr_td=mr_td, mr_config_id=configuration, mr_owner=owner, mr_owner_config=ZERO,
            registers=tuple(registers), report_data=report_data,
        )  # fmt: skip
        quote = replace(self._unsigned, report=report)
        return replace(quote, signature=signature(self.attestation_key, quote.signed)).encode()

    @cached_property
    def _unsigned(self) -> TdxQuote:
        """What all quotes have in common: the quoting enclave, certified once as a real one is."""
        point = self.attestation_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        qe_data = bytes(range(QE_DATA_BYTES))
        enclave = EnclaveReport(
            cpu_svn=self.components, misc_select=bytes(4), attributes=ENCLAVE_ATTRIBUTES,
            mr_enclave=hashlib.sha256(b"simulated quoting enclave").digest(), mr_signer=ENCLAVE_SIGNER,
            product=ENCLAVE_PRODUCT, version=ENCLAVE_VERSION,
            report_data=hashlib.sha256(point + qe_data).digest() + bytes(32),
        )  # fmt: skip
        nothing = TdReport.decode(bytes(584))
        return TdxQuote(
            user_data=derived(self.secret, "host", 20), report=nothing, signature=bytes(64), attestation_key=point,
            qe_report=enclave, qe_signature=signature(self.key, enclave.encode()), qe_data=qe_data, chain=self.chain,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """A file that only its processor may read."""
        chain = [canonical.text(certificate) for certificate in self.chain]
        parts = {"secret": canonical.text(self.secret), "components": canonical.text(self.components)}
        return canonical.encode({"format": FORMAT, "chain": chain, **parts})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises Malformed unless `data` is exactly what `to_bytes` gives."""
        found: Any = canonical.decode(data)
        names = {"format", "chain", "secret", "components"}
        if not isinstance(found, dict) or found.keys() != names or found["format"] != FORMAT:
            raise Malformed(Refusal.MALFORMED, f"is no {FORMAT}")
        if not isinstance(found["chain"], list) or len(found["chain"]) != CHAIN:
            raise Malformed(Refusal.MALFORMED, f"has no chain of {CHAIN} certificates")
        chain = tuple(canonical.data(certificate) for certificate in found["chain"])
        return cls(
            canonical.data(found["secret"], SECRET_BYTES), chain, canonical.data(found["components"], COMPONENTS)
        )
