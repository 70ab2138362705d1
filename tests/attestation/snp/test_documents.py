"""Signed documents: no bytes beside what is signed that could be others, and a time in which they are valid."""

from __future__ import annotations

import pytest
from cryptography import x509

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.documents import refuse_another_form, refuse_out_of_date
from tests.attestation.snp import published
from tests.attestation.snp.world import World


@pytest.mark.parametrize("data", [published.ARK, published.GENOA_ARK, published.ASK], ids=["Milan", "Genoa", "signer"])
def test_documents_of_the_maker_are_in_the_one_form(data: bytes) -> None:
    document = x509.load_der_x509_certificate(data)
    refuse_another_form("it", data, document.tbs_certificate_bytes, document)


def test_a_bit_of_a_signature_that_is_left_unused_is_refused(world: World) -> None:
    """The library reads a list of revoked certificates so, if the last bit of its signature is zero."""
    for seconds in range(1000, 1100):
        data = world.maker.revoked(0, seconds=seconds)
        if not data[-1] & 1:
            break
    document = x509.load_der_x509_crl(data)
    refuse_another_form("it", data, document.tbs_certlist_bytes, document)
    changed = bytearray(data)
    changed[-513] = 1
    try:
        other = x509.load_der_x509_crl(bytes(changed))
    except ValueError:
        return  # a stricter library
    with pytest.raises(NotGenuine) as refusal:
        refuse_another_form("it", bytes(changed), other.tbs_certlist_bytes, other)
    assert refusal.value.flaw is Flaw.NOT_CANONICAL


def test_an_algorithm_that_is_not_the_one_that_was_signed_is_refused() -> None:
    document = x509.load_der_x509_certificate(published.ASK)
    signed = document.tbs_certificate_bytes
    changed = published.ASK.replace(signed[-1:] + b"\x30\x46", signed[-1:] + b"\x30\x47")
    assert changed != published.ASK
    with pytest.raises(NotGenuine) as refusal:
        refuse_another_form("it", changed, signed, document)
    assert refusal.value.flaw is Flaw.NOT_CANONICAL


@pytest.mark.parametrize(("now", "flaw"), [(9, Flaw.FUTURE), (20, Flaw.EXPIRED), (10, None), (19, None)])
def test_what_is_valid_is_so_up_to_its_end(now: int, flaw: Flaw | None) -> None:
    if flaw is None:
        refuse_out_of_date("it", 10, 20, now)
        return
    with pytest.raises(NotGenuine) as refusal:
        refuse_out_of_date("it", 10, 20, now)
    assert refusal.value.flaw is flaw
