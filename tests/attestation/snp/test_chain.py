"""Chains of certificates: hardware's and simulated ones by the same rules."""

from __future__ import annotations

import itertools

import pytest

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.chain import Chain
from tests.attestation.snp import published
from tests.attestation.snp.world import DAY, NOW, World

REAL = (published.VCEK, published.ASK, published.ARK)
MOMENT = 1_750_000_000


def test_a_chain_of_hardware_and_a_simulated_one_are_believed(world: World) -> None:
    Chain.read(REAL).verify(MOMENT)
    chain = Chain.read(world.collateral.chain)
    chain.verify(NOW)
    assert chain.key.public_numbers() == world.processor.key.public_key().public_numbers()
    assert [name for name, _ in chain.named] == ["the VCEK", "the ASK", "the ARK"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_no_other_order_is_a_chain(world: World, order: tuple[int, ...]) -> None:
    for certificates, now in ((REAL, MOMENT), (world.collateral.chain, NOW)):
        with pytest.raises(NotGenuine) as refusal:
            Chain.read([certificates[place] for place in order]).verify(now)
        assert refusal.value.flaw is Flaw.CERTIFICATE


@pytest.mark.parametrize("place", range(3))
def test_no_part_of_one_chain_fits_into_another(world: World, place: int) -> None:
    mixed = list(world.collateral.chain)
    mixed[place] = REAL[place]
    with pytest.raises(NotGenuine) as refusal:
        Chain.read(mixed).verify(NOW)
    assert refusal.value.flaw is Flaw.CERTIFICATE  # their names differ


def test_a_chain_ends_with_the_first_of_its_parts(world: World) -> None:
    chain = Chain.read(world.collateral.chain)
    ends = [int(certificate.not_valid_after_utc.timestamp()) for _, certificate in chain.named]
    assert chain.ends == min(ends) == ends[0]
    chain.verify(chain.ends - 1)
    for moment, flaw in ((chain.ends, Flaw.EXPIRED), (NOW - DAY, Flaw.FUTURE)):
        with pytest.raises(NotGenuine) as refusal:
            chain.verify(moment)
        assert refusal.value.flaw is flaw


def test_what_is_no_certificate_is_refused_by_its_name() -> None:
    with pytest.raises(NotGenuine, match="the ASK cannot be read") as refusal:
        Chain.read((published.VCEK, published.ASK[:-1], published.ARK))
    assert refusal.value.flaw is Flaw.MALFORMED
