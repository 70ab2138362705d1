"""Memory is said in GiB and meant in bytes, so that what ezkl may take is what a person has read."""

from __future__ import annotations

from decentral.cli.zk_options import limits_of


def test_limits_are_bytes_and_seconds() -> None:
    assert (limits_of(1.5, 60).memory, limits_of(1.5, 60).seconds) == (3 * 2**29, 60)
