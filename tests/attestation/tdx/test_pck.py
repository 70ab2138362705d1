"""What a simulated processor's certificate says, as dcap-qvl reads it."""

from __future__ import annotations

import dcap_qvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.attestation.tdx import pem
from decentral.attestation.tdx.pck import Pck
from tests.attestation.tdx.machines import AUTHORITY, PLATFORM

KEY = PLATFORM.key


@settings(max_examples=30, deadline=None)
@given(
    st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.binary(min_size=6, max_size=6),
    st.binary(min_size=16, max_size=16), st.integers(0, 0x7FFF), st.binary(min_size=2, max_size=2),
)  # fmt: skip
def test_what_is_written_is_what_is_read(
    ppid: bytes, instance: bytes, fmspc: bytes, components: bytes, version: int, pce_id: bytes
) -> None:
    signer = AUTHORITY.processor(KEY, Pck(ppid, instance, fmspc, components, version, pce_id))
    found = dcap_qvl.parse_pck_extension_from_pem(pem.written((signer.der,)).encode())
    assert (found.ppid, found.platform_instance_id, found.fmspc) == (ppid, instance, fmspc)
    assert (found.cpu_svn, found.pce_svn, found.pce_id, found.sgx_type) == (components, version, pce_id, 1)
    versions = [int.from_bytes(found.get_value(f"1.2.840.113741.1.13.1.2.{place}"), "big") for place in range(1, 18)]
    assert versions == [*components, version]


@pytest.mark.parametrize("place", [1, 2, 3])
def test_every_flag_of_the_board_is_set(place: int) -> None:
    pck = Pck(bytes(16), bytes(16), bytes(6), bytes(16), 1)
    chain = pem.written((AUTHORITY.processor(KEY, pck).der,)).encode()
    assert dcap_qvl.parse_pck_extension_from_pem(chain).get_value(f"1.2.840.113741.1.13.1.7.{place}") == b"\xff"
