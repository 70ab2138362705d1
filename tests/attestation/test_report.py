"""Facts of machines, and the roots that they were signed under."""

from __future__ import annotations

import hashlib

import pytest

from decentral.attestation.report import MOST_DETAIL, Flaw, NotGenuine, Root, Technology


def test_whether_evidence_is_simulated_is_said_by_the_root_and_the_makers_own_never_is() -> None:
    assert Root(Technology.TDX, b"der", True).simulated
    assert Root(Technology.TDX, None, False).fingerprint == ""
    assert Root(Technology.SNP, b"der", False).fingerprint == hashlib.sha256(b"der").hexdigest()
    with pytest.raises(ValueError, match="no simulation"):
        Root(Technology.TDX, None, True)


def test_what_is_wrong_comes_first_and_why_after_it() -> None:
    error = NotGenuine(Flaw.DEBUG, "the host can read the guest's memory")
    assert str(error) == "debug: the host can read the guest's memory"
    assert error.flaw is Flaw.DEBUG


def test_what_is_quoted_of_evidence_is_nothing_that_a_terminal_obeys() -> None:
    error = NotGenuine(Flaw.CERTIFICATE, "issued by \x1b[2Jnobody\n" + "x" * 10_000)
    assert str(error).startswith("certificate: issued by ?[2Jnobody?xxx")
    assert len(error.detail) == MOST_DETAIL


def test_only_roots_that_makers_have_published_are_makers_own() -> None:
    assert Root(Technology.TDX, None, False).makers
    assert not Root(Technology.TDX, b"der", False).makers


def test_no_two_flaws_have_one_name() -> None:
    assert len({flaw.value for flaw in Flaw}) == len(Flaw)
