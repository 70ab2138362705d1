"""A simulated processor of AMD, whose maker's RSA keys take a second."""

from __future__ import annotations

import pytest

from decentral.attestation.host.simulation import Simulation
from decentral.attestation.report import Technology
from tests.attestation.world import NOW


@pytest.fixture(scope="session")
def sev_snp(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return Simulation.open(tmp_path_factory.mktemp("maker"), Technology.SNP, NOW)
