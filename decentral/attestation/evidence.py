"""What a node shows of its machine, in one form: a quote, what it covers, and what a verifier needs beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Self

from decentral import canonical
from decentral.attestation.attester import RUNTIME, Quoted
from decentral.attestation.binding import HPKE_KEY_BYTES, VOICE_BYTES
from decentral.attestation.registers import EventLog
from decentral.attestation.report import Flaw, NotGenuine, Report, Root, Technology
from decentral.attestation.snp.verification import verify_snp
from decentral.attestation.tdx.verification import verify_tdx
from decentral.errors import Malformed

MOST_QUOTE, MOST_COLLATERAL, MOST_MANIFEST = 1 << 16, 1 << 19, 1 << 22
"""Bytes of each."""
_KEYS = {"technology", "quote", "log", "collateral", "key", "voice", "manifest"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """`key`, `voice`: keys that the quote covers, X25519 to which a session's keys are sealed and Ed25519 that verifies
    what the machine signs of its answers. See `Quoted` for the rest.
    """

    technology: Technology
    quote: bytes
    log: EventLog
    collateral: bytes
    key: bytes
    voice: bytes
    manifest: bytes = b""

    @classmethod
    def of(cls, quoted: Quoted, key: bytes, voice: bytes) -> Self:
        return cls(quoted.technology, quoted.quote, quoted.log, quoted.collateral, key, voice, quoted.manifest)

    @property
    def short(self) -> Evidence:
        """Without the files, which tell what has changed and prove nothing that the log does not."""
        return replace(self, manifest=b"")

    def plain(self) -> dict[str, Any]:
        """For `canonical.encode`."""
        return {
            "technology": self.technology.value,
            "quote": canonical.text(self.quote),
            "log": canonical.text(self.log.encoded()),
            "collateral": canonical.text(self.collateral),
            "key": canonical.text(self.key),
            "voice": canonical.text(self.voice),
            "manifest": canonical.text(self.manifest),
        }

    def encoded(self) -> bytes:
        return canonical.encode(self.plain())

    @classmethod
    def of_plain(cls, plain: Any) -> Self:
        """Raises NotGenuine for anything that `plain` does not give."""
        try:
            if set(plain) != _KEYS:
                raise ValueError(f"it has the keys {', '.join(sorted(map(str, plain)))}")
            found = cls(
                Technology(plain["technology"]),
                canonical.data(plain["quote"]),
                EventLog.parse(canonical.data(plain["log"])),
                canonical.data(plain["collateral"]),
                canonical.data(plain["key"], HPKE_KEY_BYTES),
                canonical.data(plain["voice"], VOICE_BYTES),
                canonical.data(plain["manifest"]),
            )
        except (Malformed, ValueError, TypeError) as error:
            raise NotGenuine(Flaw.MALFORMED, f"this is no evidence of a machine ({error})") from None
        limits = ((found.quote, MOST_QUOTE), (found.collateral, MOST_COLLATERAL), (found.manifest, MOST_MANIFEST))
        if any(len(part) > most for part, most in limits):
            raise NotGenuine(Flaw.MALFORMED, "more bytes than evidence of a machine has")
        return found

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises NotGenuine unless `data` is what `encoded` gives."""
        try:
            plain = canonical.decode(data)
        except Malformed as error:
            raise NotGenuine(Flaw.NOT_CANONICAL, f"evidence that {error.detail}") from None
        return cls.of_plain(plain)


def verify_evidence(evidence: Evidence, bound: bytes, roots: Collection[Root], now: int) -> Report:
    """The facts of the machine, at a time (seconds since 1970); `bound`: what its quote has to cover (`report_data`).

    Raises NotGenuine for a quote that no pinned root vouches for, one about something else, or another log than the
    one that was signed.
    """
    if not evidence.collateral:
        raise NotGenuine(Flaw.COLLATERAL, "nothing of what the processor's maker says of it came along")
    verify = _VERIFIERS[evidence.technology]
    report = verify(evidence.quote, evidence.collateral, roots, now)
    if report.report_data != bound:
        raise NotGenuine(Flaw.BINDING, "the quote covers other keys, another node, nonce, model, part, epoch or log")
    _check_log(evidence.log, report)
    return report


def _check_log(log: EventLog, report: Report) -> None:
    """Raises NotGenuine(EVENTS) unless the log is the one that the machine has signed.

    TDX has it in a register, of which it must tell all; SEV-SNP has registers nowhere, and its host gives the digest of
    what the guest is to run along (HOST_DATA), which a measured guest holds it to. With an empty log nothing may have
    been given along: an image can obey what no log tells of.
    """
    if report.registers:
        others = {event.register for event in log.events} - {RUNTIME}
        if others or RUNTIME in log.differing(report.registers):
            raise NotGenuine(Flaw.EVENTS, "the log does not lead to the register that was signed")
    elif report.configuration != host_data(log) and (log.events or any(report.configuration)):
        raise NotGenuine(Flaw.EVENTS, "the log is not the one that was given along when the machine was started")


def host_data(log: EventLog) -> bytes:
    """32 bytes that a host gives along to a guest of SEV-SNP: SHA-256 of the log of what it is to run."""
    return hashlib.sha256(log.encoded()).digest()


_VERIFIERS: dict[Technology, Callable[[bytes, bytes, Collection[Root], int], Report]] = {
    Technology.TDX: verify_tdx,
    Technology.SNP: verify_snp,
}
