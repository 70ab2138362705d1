"""Simulated makers of processors: keys of RSA with 4096 bits take a second each."""

from __future__ import annotations

import pytest

from decentral.attestation.snp.authority import SnpAuthority
from tests.attestation.snp.world import NOW, World


@pytest.fixture(scope="session")
def maker() -> SnpAuthority:
    return SnpAuthority.create(NOW)


@pytest.fixture(scope="session")
def stranger() -> SnpAuthority:
    """Another maker, with the same names."""
    return SnpAuthority.create(NOW)


@pytest.fixture(scope="session")
def world(maker: SnpAuthority, stranger: SnpAuthority) -> World:
    return World(maker, stranger)
