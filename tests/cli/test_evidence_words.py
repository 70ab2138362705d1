"""What speaks for an answer is told with what it stands on, and what is simulated never without that word."""

from __future__ import annotations

import pytest

from decentral.cli.evidence_words import evidence_lines, fault_lines
from decentral.trust.evidence import Finding, Kind


def found(kind: Kind, part: str, detail: str, *, passed: bool = True, simulated: bool = False) -> Finding:
    return Finding(kind, part, passed, detail, None, simulated)


def test_an_answer_without_other_evidence_says_nothing_of_it() -> None:
    agreed = Finding(Kind.CONSENSUS, "stage-0", True, "2 of 3 agree", 2.0)
    failed = found(Kind.ZK, "stage-0", "missing", passed=False, simulated=True)
    assert evidence_lines([agreed, failed]) == []


KINDS = {
    Kind.ZK: ("proved", "2 proofs of 1 samples hold", "local test SRS: whoever made it could forge"),
    Kind.ATTESTATION: ("attested", "3 machines count (tdx)", "simulated machines: whoever owns their host could forge"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_parts_with_the_same_evidence_stand_in_one_line_with_what_it_stands_on(kind: Kind) -> None:
    word, detail, forged = KINDS[kind]
    real, played = (
        evidence_lines([found(kind, part, detail, simulated=simulated) for part in ("stage-0", "stage-1")])
        for simulated in (False, True)
    )
    assert real == [f"{word}: stage-0, stage-1: {detail}"]
    assert played[0] == real[0]
    assert forged in played[1]


def test_one_simulated_part_of_several_is_enough_to_say_so() -> None:
    told = evidence_lines(
        [
            found(Kind.ATTESTATION, "stage-0", "3 machines count (tdx)"),
            found(Kind.ATTESTATION, "stage-1", "3 machines count (tdx)", simulated=True),
        ]
    )
    assert "simulated" in told[-1]


def test_who_failed_is_told_with_the_part_and_what_was_found() -> None:
    fault = {
        "kind": "lied",
        "node": "stage-1-b",
        "id": "0" * 64,
        "part": "stage-1",
        "detail": "is not what it computes",
    }
    assert fault_lines([fault]) == ["lied: stage-1-b (stage-1): is not what it computes"]
