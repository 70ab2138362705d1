"""Whatever stands on a local test SRS says so to whoever reads of it."""

from __future__ import annotations

from decentral.cli.zk_words import standing_words


def test_what_proofs_stand_on_is_a_ceremony_or_somebody_who_could_forge() -> None:
    assert "could forge" in standing_words("local test SRS", True)
    assert standing_words("perpetual powers of tau, 2^15", False) == "stands on perpetual powers of tau, 2^15"
