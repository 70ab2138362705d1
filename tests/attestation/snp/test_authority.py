"""A simulated maker of processors: kept as bytes, and told apart from AMD by its names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509

from decentral import canonical
from decentral.attestation.snp.authority import SnpAuthority
from decentral.attestation.snp.platform import SnpPlatform
from decentral.attestation.snp.verification import verify_snp
from decentral.errors import UserError
from tests.attestation.snp import published
from tests.attestation.snp.world import DATA, IMAGE, NOW, World


def test_an_authority_is_the_same_after_it_was_kept_as_bytes(world: World) -> None:
    kept = SnpAuthority.from_bytes(world.maker.to_bytes())
    assert kept.to_bytes() == world.maker.to_bytes()
    assert (kept.root, kept.starts) == (world.maker.root, NOW)
    processor = SnpPlatform.certified(kept, bytes(32), NOW)
    papers = processor.collateral(kept.revoked(NOW)).encode()
    assert verify_snp(processor.report(DATA, IMAGE), papers, [world.maker.root], NOW).simulated


def test_what_is_damaged_or_put_together_is_refused(world: World) -> None:
    whole = canonical.decode(world.maker.to_bytes())
    others = canonical.decode(world.stranger.to_bytes())
    for changed in (
        {},
        {**whole, "format": "another"},
        {**whole, "root_key": others["root_key"]},
        {**whole, "signer_certificate": others["signer_certificate"]},
        {**whole, "root_certificate": ""},
        {**whole, "root_key": canonical.text(bytes(100))},
        {name: value for name, value in whole.items() if name != "product"},
    ):
        with pytest.raises(UserError, match="restore the file"):
            SnpAuthority.from_bytes(canonical.encode(changed))
    with pytest.raises(UserError, match="restore the file"):
        SnpAuthority.from_bytes(world.maker.to_bytes()[:-1])


def test_private_keys_are_not_shown(world: World) -> None:
    assert repr(world.maker) == "SnpAuthority(product='Milan')"


def test_its_certificates_say_that_they_are_simulated_and_have_the_form_of_the_makers(world: World) -> None:
    for ours, theirs in (
        (world.maker.root_certificate, published.ARK),
        (world.maker.signer_certificate, published.ASK),
    ):
        found, real = x509.load_der_x509_certificate(ours), x509.load_der_x509_certificate(theirs)
        assert "simulation" in found.subject.rfc4514_string()
        assert "simulation" not in real.subject.rfc4514_string()
        assert found.serial_number == real.serial_number
        assert found.signature_algorithm_oid == real.signature_algorithm_oid
        for kind in (x509.BasicConstraints, x509.KeyUsage):
            ours_of_kind = found.extensions.get_extension_for_class(kind)
            assert ours_of_kind == real.extensions.get_extension_for_class(kind)


def test_makers_of_several_products_have_several_names(world: World) -> None:
    genoa = replace(world.maker, product="Genoa").with_root(NOW).with_signer(NOW)
    processor = SnpPlatform.certified(genoa, bytes(32), NOW)
    papers = processor.collateral(genoa.revoked(NOW)).encode()
    found = verify_snp(processor.report(DATA, IMAGE), papers, [genoa.root], NOW)
    assert found.measurement == IMAGE
    with pytest.raises(ValueError, match="not simulated"):
        replace(world.maker, product="Turin")
