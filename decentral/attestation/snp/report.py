"""Attestation reports of AMD's SEV-SNP firmware as values, read from and written to the one form of their bytes.

Source: AMD 56860, SEV Secure Nested Paging Firmware ABI, ATTESTATION_REPORT, versions 2, 3 and 5: 1184 bytes, numbers
least significant byte first; the processor signs the first 672 with ECDSA over P-384 and SHA-384.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from decentral.attestation.report import Flaw, NotGenuine

REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0
CHIP_BYTES = 64
TCB_BYTES = 8
NUMBER_BYTES = 72
"""Of each half of a signature. Those of P-384 have 48: the rest is zero."""
SCALAR_BYTES = 48

VERSIONS = (2, 3, 5)
ECDSA_P384_SHA384 = 1

POLICY_SMT = 1 << 16
POLICY_RESERVED_ONE = 1 << 17
POLICY_MIGRATION = 1 << 18
POLICY_DEBUG = 1 << 19
POLICY_BITS = (1 << 26) - 1
"""The last ones that mean something forbid to swap pages (25); what is above has to be zero."""
PLATFORM_BITS = 0b1011_1111
"""SMT, TSME, ECC, RAPL off, hidden ciphertexts, aliases checked, and trusted devices."""

_LAYOUT = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s3s21x64s8s3sx3sx8sQQ152x72s72s368x")
_TCB = struct.Struct("<BB4xBB")


@dataclass(frozen=True, slots=True, order=True)
class TcbVersion:
    """Security versions of a processor's firmware, 0 to 255 each, in the layout of Milan and Genoa (8 bytes)."""

    boot_loader: int
    tee: int
    snp: int
    microcode: int

    @classmethod
    def parse(cls, data: bytes) -> TcbVersion:
        """Of 8 bytes. What is reserved is not looked at: whoever reads compares with what `encode` writes."""
        return cls(*_TCB.unpack(data))

    def encode(self) -> bytes:
        return _TCB.pack(*self.parts)

    @property
    def parts(self) -> tuple[int, int, int, int]:
        return self.boot_loader, self.tee, self.snp, self.microcode


@dataclass(frozen=True, slots=True)
class SnpReport:
    """What the firmware says of a guest, in the order of its bytes.

    `policy`: what the guest's owner allows the host. `vmpl`: the privilege, 0 (most) to 3, at which it was asked for.
    `flags`: bit 0 says that an author's key was shown, bit 1 that the chip is masked, bits 2 to 4 who signs (0: the
    chip's VCEK; 1: a provider's VLEK; 7: nobody). TCBs: of the firmware that runs (`current`), that the key which signs
    is derived for (`reported`), that cannot be gone back behind (`committed`), that ran at the guest's start
    (`launch`). `firmware`, `committed_firmware`: build, minor, major. `cpuid`: family, model, stepping (zeros in
    version 2). `launch_mitigations`, `mitigations`: bits for faults that the firmware works around (zero before version
    5). `r`, `s`: the signature; (r, n - s) is another one of the same content, so that a report is known by
    `signed`, not by all of its bytes.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    algorithm: int
    current: TcbVersion
    platform: int
    flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    agent_report_id: bytes
    reported: TcbVersion
    cpuid: bytes
    chip_id: bytes
    committed: TcbVersion
    firmware: bytes
    committed_firmware: bytes
    launch: TcbVersion
    launch_mitigations: int = 0
    mitigations: int = 0
    r: int = 0
    s: int = 0

    @classmethod
    def parse(cls, data: bytes) -> SnpReport:
        """Raises NotGenuine: MALFORMED if it is no report that can be read, NOT_CANONICAL if bits are set (or not set)
        against the specification.
        """
        if len(data) != REPORT_BYTES:
            raise NotGenuine(Flaw.MALFORMED, f"a report of {len(data)} bytes, not {REPORT_BYTES}")
        fields = list(_LAYOUT.unpack(data))
        for place in (7, 17, 20, 23):
            fields[place] = TcbVersion.parse(fields[place])
        for place in (26, 27):
            fields[place] = int.from_bytes(fields[place], "little")
        found = cls(*fields)
        if found.version not in VERSIONS:
            raise NotGenuine(Flaw.MALFORMED, f"a report of version {found.version}, which is not known here")
        if found.algorithm != ECDSA_P384_SHA384:
            raise NotGenuine(Flaw.MALFORMED, f"a report signed with algorithm {found.algorithm}, not known here")
        if found.vmpl > 3:
            raise NotGenuine(
                Flaw.MALFORMED, f"a report asked for at privilege level {found.vmpl}, of which there is none"
            )
        found._refuse_reserved_bits()
        if found.encode() != data:
            raise NotGenuine(
                Flaw.NOT_CANONICAL, "reserved bytes of a report, or those beside its signature, are not zero"
            )
        return found

    def encode(self) -> bytes:
        """1184 bytes. Raises OverflowError or struct.error if a field does not fit into its place."""
        return _LAYOUT.pack(
            self.version,
            self.guest_svn,
            self.policy,
            self.family_id,
            self.image_id,
            self.vmpl,
            self.algorithm,
            self.current.encode(),
            self.platform,
            self.flags,
            self.report_data,
            self.measurement,
            self.host_data,
            self.id_key_digest,
            self.author_key_digest,
            self.report_id,
            self.agent_report_id,
            self.reported.encode(),
            self.cpuid,
            self.chip_id,
            self.committed.encode(),
            self.firmware,
            self.committed_firmware,
            self.launch.encode(),
            self.launch_mitigations,
            self.mitigations,
            self.r.to_bytes(NUMBER_BYTES, "little"),
            self.s.to_bytes(NUMBER_BYTES, "little"),
        )

    @property
    def signed(self) -> bytes:
        """The 672 bytes that the processor signs."""
        return self.encode()[:SIGNED_BYTES]

    @property
    def debug(self) -> bool:
        """Whether the host may read and write the guest's memory."""
        return bool(self.policy & POLICY_DEBUG)

    @property
    def migratable(self) -> bool:
        """Whether an agent may take the guest to another machine."""
        return bool(self.policy & POLICY_MIGRATION)

    @property
    def author_key(self) -> bool:
        return bool(self.flags & 1)

    @property
    def masked(self) -> bool:
        """Whether the host hides which chip this is."""
        return bool(self.flags & 2)

    @property
    def signing_key(self) -> int:
        return self.flags >> 2 & 7

    def _refuse_reserved_bits(self) -> None:
        wrong = {
            "its policy": self.policy & ~POLICY_BITS or not self.policy & POLICY_RESERVED_ONE,
            "what it says of the platform": self.platform & ~PLATFORM_BITS,
            "its flags": self.flags >> 5,
            "the processor's model, which version 2 does not have": self.version < 3 and any(self.cpuid),
            "mitigations, which come with version 5": self.version < 5
            and (self.launch_mitigations or self.mitigations),
            "what its signature leaves free": max(self.r, self.s) >> 8 * SCALAR_BYTES,
        }
        for what, found in wrong.items():
            if found:
                raise NotGenuine(Flaw.NOT_CANONICAL, f"reserved bits of a report: {what}")
