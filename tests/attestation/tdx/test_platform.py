"""A simulated processor and what it signs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decentral import canonical
from decentral.attestation.tdx.platform import SEPT_VE_DISABLE, TdxPlatform
from decentral.attestation.tdx.quote import TdxQuote
from decentral.attestation.tdx.verification import verify_tdx
from decentral.errors import Malformed
from tests.attestation.tdx.machines import (
    AUTHORITY,
    BYTES,
    COLLATERAL,
    IMAGE,
    NOW,
    PLATFORM,
    QUOTE,
    REGISTERS,
    REPORT_DATA,
)


def test_the_same_secret_is_the_same_processor_and_another_is_another() -> None:
    assert TdxPlatform.certified(AUTHORITY, b"p" * 32).quote(REPORT_DATA, IMAGE, REGISTERS) == BYTES
    other = TdxPlatform.certified(AUTHORITY, b"q" * 32)
    assert other.serial != PLATFORM.serial
    assert TdxQuote.parse(other.quote(REPORT_DATA, IMAGE)).attestation_key != QUOTE.attestation_key


def test_a_processor_is_kept_in_a_file_without_what_its_maker_keeps() -> None:
    again = TdxPlatform.from_bytes(PLATFORM.to_bytes())
    assert again == PLATFORM
    assert again.quote(REPORT_DATA, IMAGE, REGISTERS) == BYTES
    assert canonical.text(b"a" * 32).encode() not in PLATFORM.to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        PLATFORM.to_bytes() + b"\n",
        PLATFORM.to_bytes().replace(b"v1", b"v2"),
        replace(PLATFORM, chain=PLATFORM.chain[:2]).to_bytes(),
        replace(PLATFORM, secret=b"short").to_bytes(),
        replace(PLATFORM, components=b"short").to_bytes(),
    ],
)
def test_any_other_file_is_no_processor(data: bytes) -> None:
    with pytest.raises(Malformed):
        TdxPlatform.from_bytes(data)


def test_its_secret_is_not_shown() -> None:
    assert "ppp" not in repr(PLATFORM)


def test_what_a_guest_has_is_what_its_quote_says() -> None:
    quote = PLATFORM.quote(
        REPORT_DATA, IMAGE, REGISTERS, configuration=b"c" * 48, owner=b"o" * 48, module=bytes([7, 1, 4]) + bytes(13)
    )
    found = TdxQuote.parse(quote).report
    assert (found.mr_td, found.registers, found.report_data) == (IMAGE, REGISTERS, REPORT_DATA)
    assert (found.mr_config_id, found.mr_owner, found.tee_tcb_svn[:3]) == (b"c" * 48, b"o" * 48, bytes([7, 1, 4]))
    assert int.from_bytes(found.attributes, "little") == SEPT_VE_DISABLE


def test_debug_is_a_bit_of_the_guests_attributes() -> None:
    found = TdxQuote.parse(PLATFORM.quote(REPORT_DATA, IMAGE, debug=True)).report
    assert int.from_bytes(found.attributes, "little") == SEPT_VE_DISABLE | 1


def test_several_processors_of_one_maker_verify_under_one_root() -> None:
    for secret in (b"1" * 32, b"2" * 32):
        quote = TdxPlatform.certified(AUTHORITY, secret).quote(REPORT_DATA, IMAGE)
        assert verify_tdx(quote, COLLATERAL.encode(), [AUTHORITY.root], NOW).simulated
