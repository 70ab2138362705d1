"""Certificates in the one form in which they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.tdx import pem
from tests.attestation.tdx.machines import QUOTE


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=4))
def test_what_is_written_is_read_again(chain: list[bytes]) -> None:
    assert pem.read(pem.written(tuple(chain))) == tuple(chain)


def test_it_is_the_form_that_others_write() -> None:
    others = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in QUOTE.chain)
    assert pem.written(QUOTE.chain).encode() == others


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: "a chain\n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n-----END", "-----END", 1),
        lambda text: text[:40] + "\n" + text[40:],
        lambda text: text.removesuffix("\n"),
        lambda text: text[:40] + "?" + text[41:],
        lambda text: text.replace("CERTIFICATE", "X509 CRL"),
    ],
)
def test_any_other_form_is_refused(change: Callable[[str], str]) -> None:
    with pytest.raises(NotGenuine) as refused:
        pem.read(change(pem.written(QUOTE.chain)))
    assert refused.value.flaw is Flaw.NOT_CANONICAL
