"""A maker of processors that is played: its evidence is checked as hardware's is, and leads to its own root alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.attestation.evidence import host_data
from decentral.attestation.host.simulation import FILE, FRESH, Simulation
from decentral.attestation.report import Flaw, NotGenuine, Root, Technology
from decentral.attestation.snp.verification import verify_snp
from decentral.attestation.tdx.verification import verify_tdx
from decentral.errors import UserError
from tests.attestation.world import IMAGE, LOG, NOW, STRANGER, TDX

DATA = bytes(range(64))


def test_a_quote_of_tdx_says_image_and_registers_under_the_simulations_root() -> None:
    quote, collateral = TDX.quote(DATA, IMAGE, LOG), TDX.collateral(NOW)
    report = verify_tdx(quote, collateral, [TDX.root], NOW)
    assert (report.report_data, report.measurement, report.registers) == (DATA, IMAGE, LOG.replay())
    assert (report.simulated, report.status, report.debug) == (True, "UpToDate", False)
    for root in (STRANGER.root, Root(Technology.TDX, None, False)):
        with pytest.raises(NotGenuine) as refused:
            verify_tdx(quote, collateral, [root], NOW)
        assert refused.value.flaw is Flaw.ROOT


def test_a_report_of_sev_snp_says_what_the_guest_is_to_run(tmp_path: Path) -> None:
    simulation = Simulation.open(tmp_path, Technology.SNP, NOW)
    report = verify_snp(simulation.quote(DATA, IMAGE, LOG), simulation.collateral(NOW), [simulation.root], NOW)
    assert (report.report_data, report.measurement, report.configuration) == (DATA, IMAGE, host_data(LOG))
    assert report.simulated
    assert Simulation.kept(tmp_path).root == simulation.root


def test_a_simulation_is_another_one_in_every_folder_and_stays_what_it_is(tmp_path: Path) -> None:
    one, again = (Simulation.open(tmp_path, Technology.TDX, NOW) for _ in range(2))
    other = tmp_path / "other"
    other.mkdir()
    assert one.root == again.root == Simulation.kept(tmp_path).root != Simulation.open(other, Technology.TDX, NOW).root
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match=r"plays tdx, not sev-snp"):
        Simulation.open(tmp_path, Technology.SNP, NOW)


def test_collateral_is_published_once_a_day_and_before_the_clocks_of_others(tmp_path: Path) -> None:
    simulation = Simulation.open(tmp_path, Technology.TDX, NOW)
    first = simulation.collateral(NOW)
    assert simulation.collateral(NOW + FRESH - 1) == first
    assert simulation.collateral(NOW + FRESH) != first
    assert verify_tdx(TDX.quote(DATA, IMAGE, LOG), TDX.collateral(NOW), [TDX.root], NOW - 60).issued < NOW


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format":"decentral simulated processor v1"}'])
def test_what_is_no_simulation_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    (tmp_path / FILE).chmod(0o600)
    with pytest.raises(UserError, match=FILE):
        Simulation.kept(tmp_path)
    with pytest.raises(UserError, match=FILE):
        Simulation.kept(tmp_path / "nowhere")
