"""The seam between a node and whatever makes evidence of its machine."""

from __future__ import annotations

from pathlib import Path

from decentral.attestation.attester import RUNTIME, Attester, Unattested
from decentral.attestation.host.configfs import Configfs, HardwareAttester
from decentral.attestation.host.quoting import QuotingAttester
from decentral.attestation.registers import REGISTERS, EventLog
from decentral.errors import DecentralError


def test_hardware_and_simulation_are_asked_alike(tmp_path: Path) -> None:
    attesters: list[Attester] = [HardwareAttester(Configfs(tmp_path), EventLog()), QuotingAttester(tmp_path)]
    assert len(attesters) == 2
    assert issubclass(Unattested, DecentralError)


def test_what_a_node_runs_goes_to_the_last_register_which_no_firmware_uses() -> None:
    assert RUNTIME == REGISTERS - 1
