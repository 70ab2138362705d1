"""Whatever stands on a local test SRS says so to whoever reads of it."""

from __future__ import annotations

from decentral.cli.zk_words import proved_lines, standing_words
from decentral.trust.evidence import Finding, Kind


def test_an_answer_without_proofs_says_nothing_of_them() -> None:
    agreed = Finding(Kind.CONSENSUS, "stage-0", True, "2 of 3 agree", 2.0)
    failed = Finding(Kind.ZK, "stage-0", False, "missing", None, True)
    assert proved_lines([agreed, failed]) == []


def test_parts_that_are_proved_together_stand_in_one_line_with_what_they_stand_on() -> None:
    def found(part: str, simulated: bool) -> Finding:
        return Finding(Kind.ZK, part, True, "2 proofs of 1 samples hold", None, simulated)

    assert proved_lines([found("stage-0", False), found("stage-1", False)]) == [
        "proved: stage-0, stage-1: 2 proofs of 1 samples hold"
    ]
    told = proved_lines([found("stage-0", True), found("stage-1", True)])
    assert len(told) == 2 and "local test SRS: whoever made it could forge" in told[1]


def test_what_proofs_stand_on_is_a_ceremony_or_somebody_who_could_forge() -> None:
    assert "could forge" in standing_words("local test SRS", True)
    assert standing_words("perpetual powers of tau, 2^15", False) == "stands on perpetual powers of tau, 2^15"
