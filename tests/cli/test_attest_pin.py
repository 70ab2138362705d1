"""`decentral attest pin` shows what an upgrade has changed, and pins it when a person says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from decentral.cli.attest_pin import NOT_WRITTEN
from decentral.cli.main import app
from decentral.errors import UserError
from decentral.launch.background import start_serving, stop
from decentral.launch.prepare import prepare
from decentral.run.directory import ServingDirectory
from decentral.trust.anchors import FILE, Anchors
from tests.launch.attested import copied, recipe_in


def pin(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["attest", "pin", *map(str, arguments)])


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    return prepare(recipe_in(tmp_path), tmp_path / "here")


def references(cluster: ServingDirectory) -> list[str]:
    machines = Anchors.load(cluster.path / FILE).machines
    assert machines is not None
    return [each.events["policy"] for each in machines.references]


def test_what_is_installed_and_pinned_is_said_to_be(cluster: ServingDirectory) -> None:
    before = (cluster.path / FILE).read_bytes()
    done = pin(cluster.path)
    assert done.exit_code == 0 and "pins what is installed here" in done.stdout
    found = json.loads(pin(cluster.path, "--json", "--yes").stdout)
    assert found["as_pinned"] and not found["written"] and found["dropped"] == []
    assert (cluster.path / FILE).read_bytes() == before


def test_nothing_is_pinned_unless_somebody_says_yes(cluster: ServingDirectory) -> None:
    before = references(cluster)
    (cluster.path / "policy.toml").write_text("replicas = 1\n")
    done = pin(cluster.path)
    assert done.exit_code == NOT_WRITTEN and "--yes" in done.stderr and references(cluster) == before
    assert "policy" in done.stdout and "will not count any more" in done.stdout
    done = pin(cluster.path, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == NOT_WRITTEN and not found["written"] and references(cluster) == before
    assert found["differing"] == ["policy"] and found["files"] == {"changed": [], "added": [], "removed": []}
    done = pin(cluster.path, "--yes", "--keep")
    assert done.exit_code == 0 and "give" in done.stdout and len(references(cluster)) == 2
    found = json.loads(pin(cluster.path, "--yes", "--json").stdout)
    assert found["written"] and [each["events"]["policy"] for each in found["dropped"]] == before
    assert references(cluster) == [found["pinned"]["events"]["policy"]] != before


@pytest.mark.parametrize(("answer", "writes"), [("y\n", True), ("n\n", False)])
def test_a_person_at_a_terminal_is_asked(
    cluster: ServingDirectory, answer: str, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = references(cluster)
    (cluster.path / "policy.toml").write_text("replicas = 1\n")
    monkeypatch.setattr("decentral.cli.attest_pin.is_terminal", lambda: True)
    done = CliRunner().invoke(app, ["attest", "pin", str(cluster.path)], input=answer)
    assert (done.exit_code, references(cluster) != before) == (0 if writes else NOT_WRITTEN, writes)


def test_a_cluster_whose_nodes_show_nothing_has_nothing_to_pin(tmp_path: Path) -> None:
    plain = prepare(recipe_in(tmp_path, "none"), tmp_path / "here")
    done = pin(plain.path)
    assert done.exit_code == 2 and "recipe.yaml: attestation: none" in done.stderr
    done = pin(tmp_path / "nowhere")
    assert done.exit_code == 2 and "holds no run" in done.stderr


def test_an_error_in_the_trust_file_names_file_and_key(cluster: ServingDirectory) -> None:
    text = (cluster.path / FILE).read_text()
    (cluster.path / FILE).write_text(text.replace("minutes = 60", 'minutes = "an hour"'))
    done = pin(cluster.path, "--yes")
    assert done.exit_code == 2 and "trust.toml: machines.minutes: " in done.stderr


def run_attest(code: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the code that is installed there."""
    environment = {**os.environ, **({} if code is None else {"PYTHONPATH": str(code)})}
    command = [sys.executable, "-P", "-m", "decentral", "attest", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_signed_upgrade_is_the_same_nodes_and_a_roll_back_reads_nothing(
    cluster: ServingDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, key = str(cluster.path), str(tmp_path / "signer.key")

    def serve_once() -> list[str]:
        launcher = start_serving(cluster)
        try:
            assert run_attest(Path(os.environ["PYTHONPATH"]), "show", here).returncode == 0
        finally:
            stop(cluster)
            launcher.wait(30)
        return [peer.id for peer in Anchors.load(cluster.path / FILE).peers]

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert run_attest(None, "sign", here, "--key", key, "--security-version", "1").returncode == 0
    nodes, release = serve_once(), (cluster.attestation / "release").read_bytes()
    before = os.environ["PYTHONPATH"]

    copy = copied(tmp_path / "copy")
    with (copy / "decentral" / "errors.py").open("a") as module:
        module.write("\n# mended\n")
    monkeypatch.setenv("PYTHONPATH", str(copy))
    with pytest.raises(UserError, match=r"identity\.key\.sealed: another policy: .*nobody has signed"):
        start_serving(cluster)
    assert run_attest(copy, "sign", here, "--key", key, "--security-version", "2").returncode == 0
    done = run_attest(copy, "pin", here, "--yes")
    assert done.returncode == 0 and "changed  decentral/errors.py" in done.stdout
    assert serve_once() == nodes

    monkeypatch.setenv("PYTHONPATH", before)
    (cluster.attestation / "release").write_bytes(release)
    with pytest.raises(UserError, match=r"identity\.key\.sealed: a newer version: sealed under version 2; 1 runs here"):
        start_serving(cluster)
