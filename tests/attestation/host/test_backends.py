"""What a machine would show evidence with follows from its kernel alone, and a near miss says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.attestation.host.backends import BackEnd, back_end, confidential_gpu
from decentral.attestation.host.configfs import REPORTS, Configfs

SAYS = "#!/bin/sh\n{}\n"


@pytest.fixture
def kernel(tmp_path: Path) -> Configfs:
    (tmp_path / "sys" / REPORTS).mkdir(parents=True)
    return Configfs(tmp_path / "sys")


@pytest.mark.parametrize(("provider", "name"), [("tdx_guest", "tdx"), ("sev_guest", "sev-snp"), ("arm_cca", "none")])
def test_the_kernel_says_whose_reports_it_makes(
    kernel: Configfs, provider: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Configfs, "provider", lambda self: provider)
    found = back_end(kernel)
    assert found.name == name and provider in found.note


def test_who_may_not_ask_the_kernel_is_told(kernel: Configfs) -> None:
    found = back_end(kernel)  # a folder that tells nothing
    assert found.name == "none" and "not for this user" in found.note


@pytest.mark.parametrize(("device", "maker"), [("tdx_guest", "Intel TDX"), ("sev-guest", "AMD SEV-SNP")])
def test_an_older_interface_is_no_back_end_and_what_is_missing_is_said(tmp_path: Path, device: str, maker: str) -> None:
    (tmp_path / device).touch()
    found = back_end(Configfs(tmp_path), tmp_path)
    assert found.name == "simulator" and maker in found.note and "mount -t configfs" in found.note


def test_elsewhere_a_processor_is_played(tmp_path: Path) -> None:
    played = BackEnd("simulator", "no confidential hardware that the kernel knows of")
    assert back_end(Configfs(tmp_path), tmp_path) == played


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo CC status: OFF", "CC status: OFF"),
        ("echo no such option >&2; exit 3", "unknown (no such option)"),
        ("exit 9", "unknown (exit code 9)"),
    ],
)
def test_a_gpu_s_driver_is_asked_whether_it_computes_confidentially(
    tmp_path: Path, script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SAYS.format(script))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert confidential_gpu() == words


def test_without_a_driver_nobody_says_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert confidential_gpu() is None


def test_a_driver_that_hangs_or_breaks_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SAYS.format("exec sleep 60"))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("decentral.attestation.host.backends.ASKING", 0.1)
    found = confidential_gpu()
    assert found is not None and found.startswith("unknown (")
