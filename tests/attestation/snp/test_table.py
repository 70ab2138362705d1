"""Tables of certificates as hosts hand them out: what they hold, and what is missing in them."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.collateral import Collateral
from decentral.attestation.snp.table import CHAIN, REVOKED, from_table, to_table
from tests.attestation.snp.world import World

STRANGER = UUID("01234567-89ab-cdef-0123-456789abcdef")


def table(*documents: tuple[UUID, bytes]) -> bytes:
    offset, head = 24 * (len(documents) + 1), b""
    for identifier, document in documents:
        head += identifier.bytes + struct.pack("<II", offset, len(document))
        offset += len(document)
    return head + bytes(24) + b"".join(document for _, document in documents)


def documents(papers: Collateral) -> list[tuple[UUID, bytes]]:
    return [*zip(CHAIN.values(), papers.chain, strict=True), (REVOKED, papers.revoked)]


def test_what_a_host_hands_out_is_what_a_verifier_reads(world: World) -> None:
    found = from_table(to_table(world.collateral))
    assert found == world.collateral
    assert world.verified(collateral=found.encode()).simulated
    assert to_table(world.collateral) == table(*documents(world.collateral))


def test_the_order_is_free_and_what_is_not_known_is_passed_over(world: World) -> None:
    parts = [(STRANGER, b"of the host's own"), *reversed(documents(world.collateral))]
    assert from_table(table(*parts) + bytes(100)) == world.collateral  # hosts hand out whole pages


def test_certificates_in_text_are_read(world: World) -> None:
    chain = [
        x509.load_der_x509_certificate(one).public_bytes(serialization.Encoding.PEM) for one in world.collateral.chain
    ]
    revoked = x509.load_der_x509_crl(world.collateral.revoked).public_bytes(serialization.Encoding.PEM)
    assert from_table(to_table(Collateral(tuple(chain), revoked))) == world.collateral


def test_a_list_from_elsewhere_takes_the_place_of_the_hosts(world: World) -> None:
    newer = world.maker.revoked(1_900_000_000)
    assert from_table(to_table(world.collateral), newer).revoked == newer
    assert from_table(table(*documents(world.collateral)[:-1]), newer).revoked == newer


@pytest.mark.parametrize("place", range(4), ids=[*CHAIN, "list"])
def test_what_is_missing_is_named(world: World, place: int) -> None:
    parts = documents(world.collateral)
    names = [*CHAIN, "list of revoked certificates"]
    for fewer in (parts[:place] + parts[place + 1 :], [*parts[:place], (parts[place][0], b""), *parts[place + 1 :]]):
        with pytest.raises(NotGenuine, match=f"no {names[place]}") as refusal:
            from_table(table(*fewer))
        assert refusal.value.flaw is Flaw.COLLATERAL


def test_what_is_no_table_is_refused(world: World) -> None:
    whole = to_table(world.collateral)
    twice = table(*documents(world.collateral), documents(world.collateral)[0])
    text = table(*[(identifier, b"-----BEGIN nothing") for identifier, _ in documents(world.collateral)])
    for data in (b"", whole[:24], whole[:-1], whole[24:119], twice, text, bytes(1 << 19)):
        with pytest.raises(NotGenuine) as refusal:
            from_table(data)
        assert refusal.value.flaw is Flaw.MALFORMED


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(NotGenuine):
        from_table(data)
