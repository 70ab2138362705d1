"""An authority's key is kept with its certificate, the owner's alone, and read as it was written."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from decentral.errors import UserError
from decentral.wire.certificate import issued_by, new_key, private_pem
from decentral.wire.issuing import Issuer


def test_a_pair_is_read_as_it_was_written_and_by_its_owner_alone(tmp_path: Path) -> None:
    made = Issuer.new()
    made.save(tmp_path / "pair.pem")
    read = Issuer.load(tmp_path / "pair.pem")
    assert (read.der, read.pem, read.key.private_numbers()) == (made.der, made.pem, made.key.private_numbers())
    (tmp_path / "pair.pem").chmod(0o644)
    with pytest.raises(UserError, match="other users"):
        Issuer.load(tmp_path / "pair.pem")


def test_a_certificate_is_of_who_made_it_and_of_nobody_else() -> None:
    one, other = Issuer.new(), Issuer.new()
    leaf = x509.load_der_x509_certificate(one.leaf("x", "x.example", new_key().public_key(), timedelta(days=1)))
    assert issued_by(leaf, one.certificate) and not issued_by(leaf, other.certificate)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_what_does_not_belong_together_is_no_pair(tmp_path: Path) -> None:
    file = tmp_path / "pair.pem"
    for content in (b"nonsense", Issuer.new().pem, Issuer.new().pem + private_pem(new_key())):
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(UserError, match=str(tmp_path)):
            Issuer.load(file)
