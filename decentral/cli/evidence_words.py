"""What evidence says of an answer beside agreement, of proofs and of machines, always with what it stands on; and of
those who failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from decentral.cli.zk_words import TEST

if TYPE_CHECKING:
    from decentral.trust.evidence import Finding

PLAYED = "simulated machines: whoever owns their host could forge this"


def evidence_lines(findings: Sequence[Finding]) -> list[str]:
    """What passed, by kind and words; nothing of a kind that nobody asked for."""
    return [*_lines(findings, "zk", "proved", TEST), *_lines(findings, "attestation", "attested", PLAYED)]


def fault_lines(faults: Iterable[Mapping[str, str]]) -> list[str]:
    """Of each that `trust.telling.faults` tells."""
    return [f"{fault['kind']}: {fault['node']} ({fault['part']}): {fault['detail']}" for fault in faults]


def _lines(findings: Sequence[Finding], kind: str, word: str, simulated: str) -> list[str]:
    passed = [each for each in findings if each.kind.value == kind and each.passed]
    details = dict.fromkeys(each.detail for each in passed)
    parts = {detail: ", ".join(each.part for each in passed if each.detail == detail) for detail in details}
    standing = [f"stands on {simulated}"] if any(each.simulated for each in passed) else []
    return [*(f"{word}: {parts[detail]}: {detail}" for detail in details), *standing]
