"""What genuine evidence says of the machine that it comes from, and why evidence may not be genuine.

Whoever checks a quote learns facts, signed by somebody whose root the verifier has pinned; whether a machine with these
facts is good enough is for a policy to say. Whether evidence is simulated follows from the root alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

from decentral.errors import DecentralError

REPORT_DATA_BYTES = 64
"""What a guest may have signed along."""
REGISTER_BYTES = 48
"""SHA-384."""
MOST_DETAIL = 400
"""Characters of what is said of evidence: it may quote it, and a terminal may read it."""


class Technology(Enum):
    """Confidential virtual machines whose evidence can be read here."""

    TDX = "tdx"
    SNP = "sev-snp"


class Flaw(Enum):
    """What is wrong with evidence, from its bytes to what a policy asks for: every finding has one of these names."""

    MALFORMED = "malformed"
    """It cannot be read."""
    NOT_CANONICAL = "not canonical"
    """Its bytes are not those in which the same would be written here: padding, reserved bits, what nobody signed."""
    CERTIFICATE = "certificate"
    """A chain of certificates is too short, in another order, or one of them may not sign what it has signed."""
    ROOT = "root"
    """It leads to no root that the verifier has pinned."""
    SIGNATURE = "signature"
    """Something is not signed by whom it has to be."""
    EXPIRED = "expired"
    """A certificate or collateral is no longer valid."""
    FUTURE = "not yet valid"
    REVOKED = "revoked"
    """A certificate has been revoked, by its issuer or by the policy's own list."""
    COLLATERAL = "collateral"
    """What the maker of the processor says of it is missing, or is about another one."""
    DEBUG = "debug"
    """The host can look into the machine."""
    STATUS = "status"
    """Processor or firmware is out of date, or configured in a way that its maker warns of."""
    VERSION = "version"
    """Security versions below what the policy asks for."""
    SIGNER = "signer"
    """The image is not signed by whom the policy allows."""
    MEASUREMENT = "measurement"
    """What was measured is not among what the policy allows."""
    EVENTS = "events"
    """The log of events does not lead to the registers that were signed."""
    BINDING = "binding"
    """The evidence is about another key, peer, model, part or epoch."""
    STALE = "stale"
    """It answers another nonce, or is older than the policy allows."""


class NotGenuine(DecentralError):
    """Evidence that says nothing, with the first thing that is wrong with it."""

    def __init__(self, flaw: Flaw, detail: str) -> None:
        self.flaw, self.detail = flaw, "".join(each if each.isprintable() else "?" for each in detail[:MOST_DETAIL])
        super().__init__(f"{flaw.value}: {self.detail}")


MAKERS = {
    Technology.TDX: frozenset({"44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"}),
    Technology.SNP: frozenset(
        {
            "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
            "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        }
    ),
}
"""SHA-256 of the certificates (DER) that makers have published as their roots: Intel; AMD for Milan and for Genoa."""


@dataclass(frozen=True, slots=True)
class Root:
    """A certificate (DER) that a verifier has pinned, and whether who holds its key only plays a maker of processors.

    Without a certificate: the maker's own, which the library that verifies brings along.
    """

    technology: Technology
    certificate: bytes | None
    simulated: bool

    def __post_init__(self) -> None:
        if self.certificate is None and self.simulated:
            raise ValueError("the maker's own root is no simulation")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hexadecimal; empty for the maker's own."""
        return "" if self.certificate is None else hashlib.sha256(self.certificate).hexdigest()

    @property
    def makers(self) -> bool:
        """Whether this is a maker's own, by whatever is known of them here."""
        return self.certificate is None or self.fingerprint in MAKERS[self.technology]


@dataclass(frozen=True, slots=True)
class Report:
    """Facts that were signed under a root. Nothing here has been judged.

    `report_data`: 64 bytes that the guest chose. `measurement`: 48 bytes, the image that was started (MRTD of TDX,
    MEASUREMENT of SEV-SNP). `registers`: RTMR 0 to 3 of TDX, 48 bytes each; SEV-SNP has none. `configuration`: what the
    host gave along at the start (MRCONFIGID of 48 bytes, HOST_DATA of 32). `signer`: whose key the image is signed with
    (48 bytes, the digest of the author's or identity key; zeros where there is none, as always under TDX, whose MROWNER
    is nothing but the host's word). `versions`: security versions, each at its place (TEE_TCB_SVN of 16 bytes; boot
    loader, TEE, SNP, microcode). `status`: what the maker says of this processor and its firmware, in the maker's words
    ("UpToDate"); `advisories`: the maker's names of known faults. `issued`, `expires`: when the oldest part of the
    collateral that tells of processors was issued (of TDX not the root's list, which changes once a year) and the first
    of its parts or certificates ends, seconds since 1970. `serial`: of the certificate of this very processor,
    hexadecimal; of SEV-SNP, whose certificates all have the same, the chip's own identifier of 64 bytes. `privilege`:
    the level inside the guest that asked for the evidence, 0 (most) to 3 (VMPL of SEV-SNP). `migratable`: whether an
    agent of the host may take the guest to another machine.
    """

    technology: Technology
    root: Root
    report_data: bytes
    measurement: bytes
    registers: tuple[bytes, ...]
    configuration: bytes
    signer: bytes
    versions: tuple[int, ...]
    debug: bool
    status: str
    advisories: tuple[str, ...]
    issued: int
    expires: int
    serial: str
    privilege: int = 0
    migratable: bool = False

    @property
    def simulated(self) -> bool:
        return self.root.simulated
