"""Quotes of trust domains in version 4, read without leaving a byte unexplained and written again as they were.

All numbers are little-endian (Intel TDX DCAP Quoting Library API, appendix 3):

    header 48        version 4, kind of key 2 (ECDSA on P-256), kind of machine 0x81, 4 zeros, vendor 16, user data 20
    TD report 584    what the processor says of the guest
    length 4         of all that follows
    signature 64     over header and report, by the attestation key
    key 64           the attestation key's point
    6, length        certification data: what vouches for the attestation key
        QE report 384, signature 64    the quoting enclave holds it; signed by the processor's own key (PCK)
        32 (2 bytes), data 32          hashed into the QE report along with the attestation key
        5, length, chain               PEM of the processor's certificate, its issuer's and the root's, and a zero byte
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from decentral.attestation.report import REGISTER_BYTES, REPORT_DATA_BYTES, Flaw, NotGenuine
from decentral.attestation.tdx import pem

VERSION, ECDSA_P256, TEE_TDX = 4, 2, 0x81
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Of Intel's quoting enclave."""
PCK_CHAIN, QE_REPORT = 5, 6
"""Kinds of certification data."""
LARGEST = 1 << 14
"""Bytes of a quote that are looked at; real ones have about five thousand."""
CHAIN = 3
REGISTERS = 4
QE_DATA_BYTES = 32
SIGNATURE_BYTES = POINT_BYTES = 64

HEADER = struct.Struct("<HHII16s20s")
TD_REPORT = struct.Struct(f"<16s48s48s8s8s8s48s48s48s48s{'48s' * REGISTERS}64s")
ENCLAVE = struct.Struct("<16s4s28s16s32s32s32s96sHH60s64s")


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the processor says of a guest (TD report 1.0). Bytes, as long as their names say in Intel's document.

    `tee_tcb_svn`, `mr_seam`, `mr_signer_seam`, `seam_attributes` are about the TDX module, 16, 48, 48 and 8 bytes;
    `attributes` and `xfam` about what the guest may do, 8 bytes each; `mr_td` is the image; `mr_config_id`, `mr_owner`
    and `mr_owner_config` were given along by the host; `registers` are RTMR 0 to 3; `report_data` is the guest's.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    registers: tuple[bytes, ...]
    report_data: bytes

    def encode(self) -> bytes:
        registers = b"".join(self.registers)
        before = (
            self.tee_tcb_svn, self.mr_seam, self.mr_signer_seam, self.seam_attributes, self.attributes, self.xfam,
            self.mr_td, self.mr_config_id, self.mr_owner, self.mr_owner_config,
        )  # fmt: skip
        data = b"".join((*before, registers, self.report_data))
        if len(data) != TD_REPORT.size or len(registers) != REGISTERS * REGISTER_BYTES:
            raise ValueError("a part of the TD report has another length")
        return data

    @classmethod
    def decode(cls, data: bytes) -> TdReport:
        """Of 584 bytes, whatever they are."""
        fields: tuple[bytes, ...] = TD_REPORT.unpack(data)
        names = ("tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "attributes", "xfam", "mr_td",
                 "mr_config_id", "mr_owner", "mr_owner_config")  # fmt: skip
        before = dict(zip(names, fields, strict=False))
        return cls(**before, registers=fields[len(names) : -1], report_data=fields[-1])


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """What the processor says of the quoting enclave: 384 bytes, of which those that mean nothing are zero."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    product: int
    version: int
    report_data: bytes

    def encode(self) -> bytes:
        return ENCLAVE.pack(
            self.cpu_svn, self.misc_select, b"", self.attributes, self.mr_enclave, b"", self.mr_signer, b"",
            self.product, self.version, b"", self.report_data,
        )  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> EnclaveReport:
        """Of 384 bytes. Raises NotGenuine where reserved ones are not zero."""
        cpu_svn, misc_select, _, attributes, enclave, _, signer, _, product, version, _, own = ENCLAVE.unpack(data)
        found = cls(cpu_svn, misc_select, attributes, enclave, signer, product, version, own)
        if found.encode() != data:
            raise NotGenuine(Flaw.NOT_CANONICAL, "reserved bytes of the quoting enclave's report are not zero")
        return found


@dataclass(frozen=True, slots=True)
class TdxQuote:
    """`user_data`: 20 bytes that name the host. Signatures and point: 64 bytes each. `chain`: DER, leaf first."""

    user_data: bytes
    report: TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_signature: bytes
    qe_data: bytes
    chain: tuple[bytes, ...]

    @property
    def signed(self) -> bytes:
        """Header and report: what the attestation key signs."""
        return HEADER.pack(VERSION, ECDSA_P256, TEE_TDX, 0, VENDOR, self.user_data) + self.report.encode()

    def encode(self) -> bytes:
        chain = pem.written(self.chain).encode() + b"\0"
        certification = b"".join(
            (
                self.qe_report.encode(), self.qe_signature,
                len(self.qe_data).to_bytes(2, "little"), self.qe_data,
                struct.pack("<HI", PCK_CHAIN, len(chain)), chain,
            )
        )  # fmt: skip
        rest = b"".join(
            (self.signature, self.attestation_key, struct.pack("<HI", QE_REPORT, len(certification)), certification)
        )
        return self.signed + len(rest).to_bytes(4, "little") + rest

    @classmethod
    def parse(cls, data: bytes) -> TdxQuote:
        """Raises NotGenuine unless `data` is exactly what `encode` gives: malformed, or not canonical."""
        if len(data) > LARGEST:
            raise NotGenuine(Flaw.MALFORMED, f"a quote of {len(data)} bytes")
        reader = _Reader(data)
        version, kind, machine, reserved, vendor, user_data = HEADER.unpack(reader.take(HEADER.size, "header"))
        if (version, kind, machine) != (VERSION, ECDSA_P256, TEE_TDX):
            raise NotGenuine(
                Flaw.MALFORMED, f"version {version}, kind of key {kind} and machine {machine:#x}: no TDX quote we read"
            )
        if vendor != VENDOR:
            raise NotGenuine(Flaw.MALFORMED, f"a quoting enclave of the unknown vendor {vendor.hex()}")
        if reserved:
            raise NotGenuine(Flaw.NOT_CANONICAL, "reserved bytes of the header are not zero")
        report = TdReport.decode(reader.take(TD_REPORT.size, "TD report"))
        reader = reader.within(reader.number(4, "signature data"), "signature data")
        signature, key = reader.take(SIGNATURE_BYTES, "signature"), reader.take(POINT_BYTES, "attestation key")
        reader = reader.certification(QE_REPORT)
        qe_report = EnclaveReport.decode(reader.take(ENCLAVE.size, "quoting enclave's report"))
        qe_signature = reader.take(SIGNATURE_BYTES, "quoting enclave's signature")
        if reader.number(2, "quoting enclave's data") != QE_DATA_BYTES:
            raise NotGenuine(Flaw.MALFORMED, f"a quoting enclave's data that are not {QE_DATA_BYTES} bytes")
        qe_data = reader.take(QE_DATA_BYTES, "quoting enclave's data")
        chain = _chain(reader.certification(PCK_CHAIN).rest())
        return cls(user_data, report, signature, key, qe_report, qe_signature, qe_data, chain)


def trimmed(data: bytes) -> bytes:
    """A quote without the zeros up to the end of the buffer in which a guest's kernel hands it out.

    Left as it is where it ends before it says, or anything else follows.
    """
    start = HEADER.size + TD_REPORT.size
    end = start + 4 + int.from_bytes(data[start : start + 4], "little")
    return data[:end] if not any(data[end:]) else data


def _chain(data: bytes) -> tuple[bytes, ...]:
    if not data.endswith(b"\0"):
        raise NotGenuine(Flaw.NOT_CANONICAL, "a chain of certificates that no zero byte ends")
    try:
        chain = pem.read(data[:-1].decode("ascii"))
    except UnicodeDecodeError:
        raise NotGenuine(Flaw.MALFORMED, "a chain of certificates that is no text") from None
    if len(chain) != CHAIN:
        raise NotGenuine(Flaw.CERTIFICATE, f"a chain of {len(chain)} certificates, where there have to be {CHAIN}")
    return chain


class _Reader:
    """Bytes from front to back, each once."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int, what: str) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise NotGenuine(Flaw.MALFORMED, f"ends within the {what}")
        self._at += count
        return found

    def number(self, width: int, what: str) -> int:
        return int.from_bytes(self.take(width, f"length of the {what}"), "little")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at, "rest")

    def within(self, count: int, what: str) -> _Reader:
        """What follows, which has to be so many bytes."""
        if len(self._data) - self._at != count:
            raise NotGenuine(Flaw.MALFORMED, f"{what} of {count} bytes, of which {len(self._data) - self._at} follow")
        return _Reader(self.rest())

    def certification(self, kind: int) -> _Reader:
        found = self.number(2, "certification data")
        if found != kind:
            raise NotGenuine(Flaw.MALFORMED, f"certification data of kind {found} in place of {kind}")
        return self.within(self.number(4, "certification data"), "certification data")


assert HEADER.size == 48 and TD_REPORT.size == 584 and ENCLAVE.size == 384
assert TD_REPORT.size == 136 + 4 * REGISTER_BYTES + REGISTERS * REGISTER_BYTES + REPORT_DATA_BYTES
