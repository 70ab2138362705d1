"""A quote that a real machine made, with what Intel published then, is read and checked by the very same code.

Both are samples of the repository Phala-Network/dcap-qvl (MIT licence), in `tests/near/contracts/gas-test/tests/quote`:
`quote_hex.txt` and `quote_collateral.json`, of September 2025.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import replace
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509

from decentral.attestation.report import Flaw, NotGenuine, Root, Technology
from decentral.attestation.tdx.collateral import Collateral
from decentral.attestation.tdx.platform import TdxPlatform
from decentral.attestation.tdx.quote import TdxQuote, trimmed
from decentral.attestation.tdx.verification import verify_tdx
from tests.attestation.tdx.machines import AUTHORITY, IMAGE, REPORT_DATA, flipped

FOLDER = Path(__file__).parent / "published"
BUFFER = bytes.fromhex((FOLDER / "quote.hex").read_text())
BYTES = trimmed(BUFFER)
COLLATERAL = Collateral.imported((FOLDER / "collateral.json").read_text())
NOW = int(datetime.datetime(2025, 9, 15, tzinfo=datetime.UTC).timestamp())
MAKERS = Root(Technology.TDX, None, simulated=False)


def flaw_of(quote: bytes, collateral: Collateral, root: Root, now: int) -> Flaw:
    with pytest.raises(NotGenuine) as refused:
        verify_tdx(quote, collateral.encode(), [root], now)
    return refused.value.flaw


def test_a_real_quote_is_written_as_it_was_read_once_its_buffers_zeros_are_cut_off() -> None:
    assert len(BUFFER) - len(BYTES) == 70
    assert TdxQuote.parse(BYTES).encode() == BYTES
    with pytest.raises(NotGenuine, match="signature data"):
        TdxQuote.parse(BUFFER)


def test_a_real_quote_leads_to_the_makers_own_root() -> None:
    report = verify_tdx(BYTES, COLLATERAL.encode(), [AUTHORITY.root, MAKERS], NOW)
    assert report.root == MAKERS and not report.simulated and not report.debug
    assert (report.status, report.advisories, report.versions[:3]) == ("UpToDate", (), (6, 1, 4))
    assert report.measurement.hex().startswith("f06dfda6dce1cf90") and report.configuration[:1] == b"\x01"
    assert report.registers[3].hex().startswith("287a9242edd8c842")
    assert report.serial == "3d535559206c42dcc20de761aa3c92b8ed396c60"


def test_its_root_pinned_by_hand_is_the_makers_own() -> None:
    pinned = Root(Technology.TDX, TdxQuote.parse(BYTES).chain[-1], simulated=False)
    report = verify_tdx(BYTES, COLLATERAL.encode(), [pinned], NOW)
    assert report.root == pinned and pinned.fingerprint


def test_its_dates_are_those_that_dcap_qvl_finds() -> None:
    policy = dcap_qvl.QuotePolicy.claims_only(NOW)
    claims = dcap_qvl.QuoteVerifier().verify_with_policy(BYTES, COLLATERAL.given(), NOW, policy).to_json()
    report = verify_tdx(BYTES, COLLATERAL.encode(), [MAKERS], NOW)
    assert f'"earliest_expiration_date":{report.expires},' in claims.replace(" ", "")
    assert report.issued == x509.load_der_x509_crl(COLLATERAL.pck_crl).last_update_utc.timestamp()


def test_a_real_quote_has_its_time() -> None:
    report = verify_tdx(BYTES, COLLATERAL.encode(), [MAKERS], NOW)
    assert verify_tdx(BYTES, COLLATERAL.encode(), [MAKERS], report.expires - 1) == report
    assert flaw_of(BYTES, COLLATERAL, MAKERS, report.expires) is Flaw.EXPIRED
    assert flaw_of(BYTES, COLLATERAL, MAKERS, report.issued - 1) is Flaw.FUTURE


def test_a_simulation_neither_stands_for_the_real_nor_the_real_for_it() -> None:
    simulated = TdxPlatform.certified(AUTHORITY, b"p" * 32).quote(REPORT_DATA, IMAGE)
    assert flaw_of(simulated, AUTHORITY.collateral(NOW), MAKERS, NOW) is Flaw.ROOT
    assert flaw_of(BYTES, COLLATERAL, AUTHORITY.root, NOW) is Flaw.ROOT
    assert flaw_of(BYTES, AUTHORITY.collateral(NOW), MAKERS, NOW) is Flaw.COLLATERAL
    grafted = replace(TdxQuote.parse(simulated), chain=TdxQuote.parse(BYTES).chain).encode()
    assert flaw_of(grafted, COLLATERAL, MAKERS, NOW) is Flaw.SIGNATURE


def survivors(bits: int) -> list[int]:
    """Places of the quote at which one of so many bits, by a seed, may be changed."""
    chance, collateral, found = random.Random(9), COLLATERAL.encode(), []
    for place in range(len(BYTES)):
        for bit in chance.sample(range(8), bits):
            try:
                verify_tdx(flipped(BYTES, place, bit), collateral, [MAKERS], NOW)
                found.append(place)
            except NotGenuine:
                continue
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
def test_no_byte_of_a_real_quote_can_be_changed() -> None:
    assert survivors(2) == []
