"""The bytes of a report: one form for each value, and nothing beside it."""

from __future__ import annotations

import struct
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.report import REPORT_BYTES, SIGNED_BYTES, SnpReport, TcbVersion
from tests.attestation.snp import published

byte = st.integers(0, 255)
tcbs = st.builds(TcbVersion, byte, byte, byte, byte)
words = st.integers(0, (1 << 64) - 1)


def octets(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


reports = st.builds(
    SnpReport,
    version=st.just(5),
    guest_svn=st.integers(0, (1 << 32) - 1),
    policy=st.integers(0, (1 << 26) - 1).map(lambda policy: policy | 1 << 17),
    family_id=octets(16),
    image_id=octets(16),
    vmpl=st.integers(0, 3),
    algorithm=st.just(1),
    current=tcbs,
    platform=st.integers(0, 63),
    flags=st.integers(0, 31),
    report_data=octets(64),
    measurement=octets(48),
    host_data=octets(32),
    id_key_digest=octets(48),
    author_key_digest=octets(48),
    report_id=octets(32),
    agent_report_id=octets(32),
    reported=tcbs,
    cpuid=octets(3),
    chip_id=octets(64),
    committed=tcbs,
    firmware=octets(3),
    committed_firmware=octets(3),
    launch=tcbs,
    launch_mitigations=words,
    mitigations=words,
    r=st.integers(0, (1 << 384) - 1),
    s=st.integers(0, (1 << 384) - 1),
)


@given(reports)
def test_what_is_written_is_read_again(report: SnpReport) -> None:
    data = report.encode()
    assert len(data) == REPORT_BYTES
    assert SnpReport.parse(data) == report
    assert report.signed == data[:SIGNED_BYTES]


@given(st.data(), reports)
def test_whatever_is_read_would_be_written_so(data: st.DataObject, report: SnpReport) -> None:
    """Also after any bit was turned over: what is not refused says something else, in the one form for that."""
    changed = bytearray(report.encode())
    place = data.draw(st.integers(0, 8 * REPORT_BYTES - 1))
    changed[place // 8] ^= 1 << place % 8
    try:
        found = SnpReport.parse(bytes(changed))
    except NotGenuine as refusal:
        assert refusal.flaw in (Flaw.MALFORMED, Flaw.NOT_CANONICAL)
    else:
        assert found.encode() == changed
        assert found != report


@given(st.binary(max_size=2 * REPORT_BYTES) | octets(REPORT_BYTES))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(NotGenuine):
        SnpReport.parse(data)


def test_a_report_of_hardware_is_read_and_written_to_the_byte() -> None:
    report = SnpReport.parse(published.REPORT)
    assert report.encode() == published.REPORT
    assert (report.policy, report.firmware, report.cpuid) == (0x3001F, bytes([29, 55, 1]), bytes([0x19, 1, 1]))
    assert report.reported == TcbVersion(boot_loader=4, tee=0, snp=24, microcode=219)
    assert report.chip_id.hex().startswith("4ffb5cb4fd594f3f")


def test_the_bits_of_policy_and_flags_mean_what_the_specification_says() -> None:
    plain = SnpReport.parse(published.REPORT)
    assert (plain.debug, plain.migratable, plain.author_key, plain.masked, plain.signing_key) == (False,) * 4 + (0,)
    data = bytearray(published.REPORT)
    struct.pack_into("<Q", data, 8, 0b1111 << 16)
    struct.pack_into("<I", data, 0x48, 0b11111)
    found = SnpReport.parse(bytes(data))
    assert (found.debug, found.migratable, found.author_key, found.masked, found.signing_key) == (True,) * 4 + (7,)


def test_the_order_of_the_fields_is_that_of_the_bytes() -> None:
    names = [field.name for field in fields(SnpReport)]
    assert names[:3] == ["version", "guest_svn", "policy"]
    assert names[-2:] == ["r", "s"]


@given(tcbs)
def test_versions_have_their_places(tcb: TcbVersion) -> None:
    data = tcb.encode()
    assert (data[0], data[1], data[6], data[7]) == tcb.parts
    assert data[2:6] == bytes(4)
    assert TcbVersion.parse(data) == tcb
