"""`decentral attest` prints what to pin of a machine, and what the machine shows of itself, verified."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from decentral.attestation.host.configfs import REPORTS, Configfs
from decentral.attestation.manifest import own_manifest
from decentral.attestation.report import Technology
from decentral.cli.attest import NOT_AS_PINNED
from decentral.cli.main import app
from decentral.errors import UserError
from decentral.launch.background import start_serving, stop
from decentral.launch.prepare import prepare
from decentral.run.directory import ServingDirectory
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.machines import Machines
from tests.attestation.world import NOW, TDX
from tests.attestation.world import Machine as Attester
from tests.launch.attested import recipe_in


def attest(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["attest", *map(str, arguments)])


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    return prepare(recipe_in(tmp_path), tmp_path / "here")


def pinned(cluster: ServingDirectory) -> Machines | None:
    return Anchors.load(cluster.path / FILE).machines


def read(lines: str) -> Machines:
    return Machines.of(tomllib.loads(lines)["machines"], lambda problem, key: UserError(f"{key}: {problem}"))


def test_an_installation_has_reference_values_without_a_cluster(tmp_path: Path) -> None:
    found = json.loads(attest("measure", "--json").stdout)
    assert found["events"] == {"code": own_manifest().digest.hex()}
    assert found["simulated"] and found["trust"] is found["register_3"] is None
    assert found["files"] == len(own_manifest().files)
    shown = attest("measure").stdout
    assert found["image"] in shown and "of a simulated machine" in shown


def test_what_is_measured_of_a_cluster_is_what_up_has_pinned(cluster: ServingDirectory) -> None:
    found = json.loads(attest("measure", cluster.path, "--json").stdout)
    assert read(found["trust"]) == pinned(cluster)
    shown = attest("measure", cluster.path).stdout
    assert read(shown[shown.index("[machines]") :]) == pinned(cluster)
    assert found["register_3"] in shown and "its owner can forge" in shown


def test_a_cluster_without_a_simulated_processor_has_no_root_to_pin(tmp_path: Path) -> None:
    cluster = prepare(recipe_in(tmp_path, "none"), tmp_path / "here")
    found = json.loads(attest("measure", cluster.path, "--json").stdout)
    assert found["trust"] is None and list(found["events"]) == ["code", "recipe", "policy", "model"]


@pytest.fixture
def hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose quotes lead to a maker that is not the real one."""
    (tmp_path / "sys" / REPORTS).mkdir(parents=True)
    monkeypatch.setattr("decentral.attestation.host.configfs.SYSTEM", tmp_path / "sys")
    monkeypatch.setattr(Configfs, "here", property(lambda self: True))
    monkeypatch.setattr(Configfs, "report", lambda self, data: (Technology.TDX, b"quote", b""))
    monkeypatch.setattr(Configfs, "register", lambda self: bytes(48))
    yield


def test_of_real_hardware_the_image_is_its_owners_to_say(cluster: ServingDirectory, hardware: None) -> None:
    found = json.loads(attest("measure", cluster.path, "--json").stdout)
    with pytest.raises(UserError, match="measurement: without it every image counts"):
        read(found["trust"])
    machines = read(found["trust"].replace('measurement = ""', f'measurement = "{"0" * 96}"'))
    assert not found["simulated"]
    assert [(root.technology, root.certificate, root.simulated) for root in machines.roots] == [
        (Technology.TDX, None, False)
    ]
    assert "code" in machines.references[0].events
    shown = attest("measure", cluster.path).stdout
    assert "take that from who built it" in shown and "simulated machine" not in shown


def test_a_quote_that_nobody_vouches_for_gives_no_image(cluster: ServingDirectory, hardware: None) -> None:
    done = attest("measure", cluster.path, "--from-quote")
    assert done.exit_code == 1 and "nothing of what the processor's maker says" in done.stderr


def test_a_quote_that_is_trusted_gives_the_image_too(
    cluster: ServingDirectory, hardware: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decentral.attestation import evidence

    def verified(*of: object) -> object:
        _, bound, _, now = of
        return verify(of[0], bound, [TDX.root], now)  # type: ignore[arg-type]

    verify = evidence.verify_evidence
    monkeypatch.setattr(evidence, "verify_evidence", verified)
    monkeypatch.setattr("time.time", lambda: float(NOW))
    monkeypatch.setattr("decentral.launch.attesting.observer_of", lambda cluster: Attester())
    machines = read(json.loads(attest("measure", cluster.path, "--from-quote", "--json").stdout)["trust"])
    assert machines.references[0].measurement == Attester().image.hex()
    assert machines.references[0].registers == ("0" * 96,) * 3


def test_an_image_is_taken_from_hardware_alone(cluster: ServingDirectory) -> None:
    done = attest("measure", cluster.path, "--from-quote")
    assert done.exit_code == 2 and "a machine with confidential hardware" in done.stderr


def test_a_cluster_that_is_down_or_pins_nothing_shows_nothing(cluster: ServingDirectory, tmp_path: Path) -> None:
    done = attest("show", cluster.path)
    assert done.exit_code == 2 and "is down" in done.stderr
    (tmp_path / "other").mkdir()
    plain = prepare(recipe_in(tmp_path / "other", "none"), tmp_path / "other" / "here")
    done = attest("show", plain.path)
    assert done.exit_code == 2 and "pins no machines" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_shows_what_is_pinned_until_something_changes(cluster: ServingDirectory) -> None:
    launcher = start_serving(cluster)
    try:
        command = [sys.executable, "-P", "-m", "decentral", "attest", "show", str(cluster.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert "pinned as simulated" in done.stdout and "verified; as it is pinned" in done.stdout
        assert "the processor is simulated" in done.stderr
        with (cluster.path / "policy.toml").open("a") as policy:
            policy.write("# another\n")
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=100, check=False)
        found = json.loads(done.stdout)
        assert done.returncode == NOT_AS_PINNED and not found["as_pinned"]
        assert found["complaints"] == ["measurement: its policy is not the one that is allowed"]
    finally:
        stop(cluster)
        launcher.wait(20)
