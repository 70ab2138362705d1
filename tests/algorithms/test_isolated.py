"""Peers that train alone send no model and are not influenced by one another."""

from __future__ import annotations

from decentral.algorithms.isolated import Isolated


def test_nothing_is_exchanged(world):
    played = world(4, Isolated, rounds=3).play()
    assert played.values == [3.0, 4.0, 5.0, 6.0]
    assert all(journal.of("round")[-1]["bytes"]["total"] == 0 for journal in played.journals.values())
