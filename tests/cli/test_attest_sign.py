"""`decentral attest sign` names who answers for an installation, under a version that never goes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from decentral.attestation.host.measuring import Measurer
from decentral.attestation.host.processes import startable
from decentral.attestation.host.release import FILE, Release
from decentral.cli.main import app
from decentral.launch.prepare import prepare
from decentral.run.directory import ServingDirectory
from decentral.wire.identity import Identity
from tests.launch.attested import recipe_in


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    return prepare(recipe_in(tmp_path), tmp_path / "here")


def sign(cluster: ServingDirectory, key: Path, version: int, *more: str) -> Result:
    given = ["attest", "sign", str(cluster.path), "--key", str(key), "--security-version", str(version), *more]
    return CliRunner().invoke(app, given)


def test_what_is_installed_is_signed_and_nothing_else(cluster: ServingDirectory, tmp_path: Path) -> None:
    found = json.loads(sign(cluster, tmp_path / "key", 3, "--json").stdout)
    release, measured = Release.load(cluster.attestation / FILE), Measurer(cluster.path).measure(startable())
    assert release is not None and release.covers(measured.image, measured.manifest.digest)
    assert release.public_key == Identity.load(tmp_path / "key").public_key and release.version == 3
    assert found == {"release": str(cluster.attestation / FILE), "signer": release.signer.hex(), "security_version": 3}
    assert "version 4" in sign(cluster, tmp_path / "key", 4).stdout


def test_a_signer_goes_back_to_no_version_and_another_begins_anywhere(
    cluster: ServingDirectory, tmp_path: Path
) -> None:
    sign(cluster, tmp_path / "key", 3)
    before = (cluster.attestation / FILE).read_bytes()
    done = sign(cluster, tmp_path / "key", 2)
    assert done.exit_code == 2 and "release: --security-version 2: 3 was signed already" in done.stderr
    assert (cluster.attestation / FILE).read_bytes() == before
    assert sign(cluster, tmp_path / "other", 1).exit_code == 0


def test_what_cannot_be_signed_is_said_by_name(cluster: ServingDirectory, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    (tmp_path / "key").chmod(0o600)
    done = sign(cluster, tmp_path / "key", 1)
    assert done.exit_code == 2 and f"{tmp_path / 'key'}: not an Ed25519" in done.stderr
    done = sign(cluster, tmp_path / "no folder" / "key", 1)
    assert done.exit_code == 2 and "cannot be written" in done.stderr
    (tmp_path / "other").mkdir()
    plain = prepare(recipe_in(tmp_path / "other", "none"), tmp_path / "other" / "here")
    done = sign(plain, tmp_path / "good", 1)
    assert done.exit_code == 2 and "recipe.yaml: attestation: none" in done.stderr
