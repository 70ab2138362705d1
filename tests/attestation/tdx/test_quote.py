"""Quotes, read without a byte left over and written again as they were."""

from __future__ import annotations

from dataclasses import replace

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.tdx.quote import LARGEST, TdReport, TdxQuote, trimmed
from tests.attestation.tdx.machines import BYTES, IMAGE, QUOTE, REGISTERS, REPORT_DATA, flipped

LENGTH, KIND, INNER = 632, 764, 1252
"""Where the length of the signature data, the outer and the inner certification data stand."""


def refusal(data: bytes) -> Flaw:
    with pytest.raises(NotGenuine) as refused:
        TdxQuote.parse(data)
    return refused.value.flaw


def test_a_quote_is_written_as_it_was_read() -> None:
    assert TdxQuote.parse(BYTES).encode() == BYTES
    assert QUOTE.report.report_data == REPORT_DATA
    assert QUOTE.report.mr_td == IMAGE
    assert QUOTE.report.registers == REGISTERS


def test_dcap_qvl_reads_the_same_in_it() -> None:
    other = dcap_qvl.parse_quote(BYTES)
    report = other.report
    assert other.is_tdx() and other.header.user_data == QUOTE.user_data
    assert (report.mr_td, report.report_data, report.td_attributes, report.xfam) == (
        QUOTE.report.mr_td, QUOTE.report.report_data, QUOTE.report.attributes, QUOTE.report.xfam,
    )  # fmt: skip
    assert (report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3) == QUOTE.report.registers
    assert (report.tee_tcb_svn, report.mr_seam, report.mr_config_id, report.mr_owner, report.mr_owner_config) == (
        QUOTE.report.tee_tcb_svn, QUOTE.report.mr_seam, QUOTE.report.mr_config_id, QUOTE.report.mr_owner,
        QUOTE.report.mr_owner_config,
    )  # fmt: skip


@given(st.binary(min_size=584, max_size=584))
def test_every_report_is_written_as_it_was_read(data: bytes) -> None:
    assert TdReport.decode(data).encode() == data


def test_a_report_with_a_part_of_another_length_is_not_written() -> None:
    with pytest.raises(ValueError, match="another length"):
        replace(QUOTE.report, mr_td=b"short").encode()
    with pytest.raises(ValueError, match="another length"):
        replace(QUOTE.report, registers=REGISTERS[:3], report_data=bytes(112)).encode()


@given(st.integers(0, len(BYTES) - 1), st.integers(0, 7))
def test_whatever_is_read_is_written_as_it_was(place: int, bit: int) -> None:
    changed = flipped(BYTES, place, bit)
    try:
        assert TdxQuote.parse(changed).encode() == changed
    except NotGenuine as error:
        assert error.flaw in {Flaw.MALFORMED, Flaw.NOT_CANONICAL, Flaw.CERTIFICATE}


@pytest.mark.parametrize("end", [0, 1, 47, 48, 631, 635, 700, 763, 769, 1153, 1251, 1257, 2000, -1])
def test_a_quote_that_ends_too_soon_is_malformed(end: int) -> None:
    assert refusal(BYTES[:end]) is Flaw.MALFORMED


@pytest.mark.parametrize(
    ("change", "flaw"),
    {
        "version 5": (flipped(BYTES, 0), Flaw.MALFORMED),
        "another kind of key": (flipped(BYTES, 2), Flaw.MALFORMED),
        "SGX": (BYTES[:4] + bytes(4) + BYTES[8:], Flaw.MALFORMED),
        "a reserved byte of the header": (flipped(BYTES, 9), Flaw.NOT_CANONICAL),
        "another vendor": (flipped(BYTES, 12), Flaw.MALFORMED),
        "a byte after the end": (BYTES + b"\0", Flaw.MALFORMED),
        "signature data of another length": (flipped(BYTES, LENGTH), Flaw.MALFORMED),
        "another kind of certification": (flipped(BYTES, KIND), Flaw.MALFORMED),
        "certification of another length": (flipped(BYTES, KIND + 2), Flaw.MALFORMED),
        "a reserved byte of the enclave's report": (flipped(BYTES, KIND + 6 + 21), Flaw.NOT_CANONICAL),
        "enclave's data of another length": (flipped(BYTES, INNER - 34), Flaw.MALFORMED),
        "another kind of chain": (flipped(BYTES, INNER), Flaw.MALFORMED),
        "a chain of another length": (flipped(BYTES, INNER + 2), Flaw.MALFORMED),
        "a chain that no zero ends": (flipped(BYTES, -1), Flaw.NOT_CANONICAL),
        "a chain that is no text": (flipped(BYTES, INNER + 100, 7), Flaw.MALFORMED),
        "a chain of two": (replace(QUOTE, chain=QUOTE.chain[:2]).encode(), Flaw.CERTIFICATE),
        "a chain of four": (replace(QUOTE, chain=(*QUOTE.chain, QUOTE.chain[2])).encode(), Flaw.CERTIFICATE),
        "more than is looked at": (BYTES + bytes(LARGEST), Flaw.MALFORMED),
    }.values(),
)
def test_a_quote_in_any_other_form_is_refused(change: bytes, flaw: Flaw) -> None:
    assert refusal(change) is flaw


def test_zeros_of_the_buffer_after_a_quote_are_cut_off_and_nothing_else() -> None:
    assert trimmed(BYTES + bytes(70)) == BYTES
    assert trimmed(BYTES) == BYTES
    assert trimmed(BYTES + b"\0x") == BYTES + b"\0x"
    assert trimmed(BYTES[:100]) == BYTES[:100]
