"""A simulated maker of processors: all of it follows from a secret."""

from __future__ import annotations

import pytest
from cryptography import x509

from decentral.attestation.tdx.authority import Level, TdxAuthority, private_key
from decentral.attestation.tdx.chains import Role, Span, certificate, revoked
from tests.attestation.tdx.machines import AUTHORITY, COLLATERAL, DAY, NOW, OTHERS


def test_the_same_secret_is_the_same_maker_whenever_it_is_asked() -> None:
    again = TdxAuthority(b"a" * 32)
    assert again.root == AUTHORITY.root
    assert again.collateral(NOW) == COLLATERAL
    assert again.collateral(NOW + DAY) != COLLATERAL
    assert OTHERS.root.fingerprint != AUTHORITY.root.fingerprint
    assert AUTHORITY.root.simulated


def test_keys_of_two_names_and_of_two_secrets_differ() -> None:
    keys = {private_key(secret, name).private_numbers().private_value for secret in (b"a", b"b") for name in "xy"}
    assert len(keys) == 4


def test_a_secret_has_its_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        TdxAuthority(b"short")


def test_every_certificate_has_its_role() -> None:
    root = certificate(AUTHORITY.ca.der, [Role.ROOT], None)
    for signer, role in ((AUTHORITY.platforms, Role.PLATFORM), (AUTHORITY.documents, Role.SIGNING)):
        assert certificate(signer.der, [role], root).role is role


def test_a_list_names_what_was_revoked_and_for_how_long_it_holds() -> None:
    found = revoked(AUTHORITY.ca.revoke([5, 7], Span(NOW, NOW + DAY)), certificate(AUTHORITY.ca.der, [Role.ROOT], None))
    assert found.serials == {5, 7}
    assert found.span == Span(NOW, NOW + DAY)


def test_what_is_published_lists_levels_best_first() -> None:
    found = AUTHORITY.collateral(NOW, levels=[Level(), Level(status="OutOfDate", advisories=("SA-1",))]).tcb_info
    assert found.index("UpToDate") < found.index("OutOfDate") < found.index("SA-1")


def test_certificates_say_that_they_are_a_simulations() -> None:
    for signer in (AUTHORITY.ca, AUTHORITY.platforms, AUTHORITY.documents):
        assert "Simulation" in signer.certificate.subject.rfc4514_string()
        assert isinstance(signer.certificate, x509.Certificate)
