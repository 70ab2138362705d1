"""Lists of revoked certificates: whose, until when, and of whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.chain import Chain
from decentral.attestation.snp.revocations import Revocations
from tests.attestation.snp.world import DAY, NOW, World


def test_a_list_names_what_it_revokes_and_when_it_ends(world: World) -> None:
    found = Revocations.read(world.maker.revoked(NOW, [3, 1, 1 << 60], seconds=DAY))
    assert (found.serials, found.issued, found.ends) == (frozenset({1, 3, 1 << 60}), NOW, NOW + DAY)
    found.verify(Chain.read(world.collateral.chain), NOW)


@pytest.mark.parametrize("place", range(3))
def test_each_certificate_of_a_chain_can_be_revoked(world: World, place: int) -> None:
    chain = Chain.read(world.collateral.chain)
    name, certificate = chain.named[place]
    with pytest.raises(NotGenuine, match=f"{name} has been revoked") as refusal:
        Revocations.read(world.maker.revoked(NOW, [certificate.serial_number])).verify(chain, NOW)
    assert refusal.value.flaw is Flaw.REVOKED
    Revocations.read(world.maker.revoked(NOW, [certificate.serial_number + 7])).verify(chain, NOW)


def test_a_list_counts_from_its_first_second_until_the_next_is_due(world: World) -> None:
    chain, found = Chain.read(world.collateral.chain), Revocations.read(world.maker.revoked(NOW + DAY, seconds=DAY))
    for moment in (NOW + DAY, NOW + 2 * DAY - 1):
        found.verify(chain, moment)
    for moment, flaw in ((NOW + DAY - 1, Flaw.FUTURE), (NOW + 2 * DAY, Flaw.EXPIRED)):
        with pytest.raises(NotGenuine) as refusal:
            found.verify(chain, moment)
        assert refusal.value.flaw is flaw


@given(st.binary(max_size=100))
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(NotGenuine) as refusal:
        Revocations.read(data)
    assert refusal.value.flaw is Flaw.MALFORMED
