"""`decentral zk setup` of a cluster's folder: pinned in its trust file, checked again, and said to whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.launch.prepare import prepare
from decentral.models.catalogue import build_model
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import FILE, Anchors

TINY = ("--base", "16", "--legs", "8", "--local-test-srs")


class Place:
    """A cluster that is not up, and a store of circuits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6]).state_dict(), folder / "model.pth")
        model = {"file": str(folder / "model.pth"), "name": "mlp", "hidden": [6]}
        values = {"stages": ["2"], "model": model, "data": {}}
        self.cluster = prepare(ServingRecipe.model_validate(values), folder / "here").path

    def run(self, *arguments: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DECENTRAL_ZK", str(self.folder / "store"))
            return CliRunner().invoke(app, [*arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With circuits."""
    place = Place(tmp_path_factory.mktemp("cluster"))
    assert "proved by circuit" in place.run("status", str(place.cluster)).stdout
    done = place.run("zk", "setup", str(place.cluster), *TINY)
    assert done.exit_code == 0, done.stderr
    assert "stage-1: keys" in done.stderr
    assert "local test SRS: whoever made it could forge" in done.stdout
    assert f"decentral up {place.cluster}/recipe.yaml --dir {place.cluster}" in done.stdout
    return place


def test_what_is_pinned_is_what_programs_are_told(place: Place) -> None:
    told = json.loads(place.run("zk", "setup", str(place.cluster), *TINY, "--json").stdout)
    pinned = [part.circuit for part in Anchors.load(place.cluster / FILE).parts]
    assert [each["identity"] for each in told["parts"]] == pinned and told["simulated"] and not told["running"]
    assert [each["part"] for each in told["parts"]] == ["stage-0", "stage-1"]


def test_the_status_of_the_cluster_says_what_its_proofs_stand_on(place: Place) -> None:
    told = place.run("status", str(place.cluster)).stdout
    assert "local test SRS: whoever made it could forge" in told
    assert Anchors.load(place.cluster / FILE).parts[0].circuit[:16] in told
    programs = json.loads(place.run("status", str(place.cluster), "--json").stdout)
    assert programs["proofs"] == {"standing_on": "local test SRS", "simulated": True}


def test_the_same_parts_are_found_to_be_the_same(place: Place) -> None:
    told = place.run("zk", "setup", str(place.cluster), "--check", "--local-test-srs", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["same"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--stages", "2"), "give --out DIR"),
        (("--no-rescale", "--out", "absent"), "in a folder of `up`, without --out"),
        (("--check",), "local test SRS"),
        (("--parameters", "private"), "for every output there is one"),
    ],
)
def test_what_cannot_be_is_said_in_a_paragraph(place: Place, arguments: tuple[str, ...], why: str) -> None:
    done = place.run("zk", "setup", str(place.cluster), *arguments)
    assert done.exit_code == 2 and why in done.stderr


def test_what_is_no_cluster_that_serves_is_said_to_be_none(place: Place, tmp_path: Path) -> None:
    done = place.run("zk", "setup", str(tmp_path), *TINY)
    assert done.exit_code == 2 and "holds no run" in done.stderr


# ---- a cluster that is up --------------------------------------------------------------------------------------------


def decentral(*arguments: str, folder: Path, store: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    environment = {**os.environ, "DECENTRAL_ZK": str(folder / store)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_proved_answer_is_verified_elsewhere_with_the_trust_file_alone(tmp_path: Path) -> None:
    """Where nothing of the cluster is: no stages, no circuits, no SRS."""
    torch.manual_seed(0)
    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[12, 8]).state_dict(), tmp_path / "model.pth")
    model = ("model.file=model.pth", "model.name=mlp", "model.hidden=[12, 8]", "data.name=digits")
    settings = [part for each in (*model, "proofs={srs: local-test, base: 16, legs: 8}") for part in ("--set", each)]
    up = decentral("up", "serve-digits", "--dir", "here", *settings, folder=tmp_path, store="store")
    assert up.returncode == 0, up.stderr
    assert "stage-2: keys" in up.stderr
    wanted = ("--require", "consensus,zk")
    asked = ("predict", "here", "digits:7", *wanted)
    try:
        kept = ("--receipt", "receipt.json")
        done = decentral(*asked, "--allow-simulated", *kept, folder=tmp_path, store="store")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "proved: stage-0, stage-1, stage-2: 3 proofs of 1 samples hold" in done.stdout
        assert "local test SRS: whoever made it could forge" in done.stdout
        assert "from the model in floats" in done.stdout and "proving stage-1 (stage-1-" in done.stderr
        kept = ("--no-wait-proof", "--receipt", "later.json")
        early = decentral(*asked, "--allow-simulated", *kept, folder=tmp_path, store="store")
        assert early.returncode == 0 and "not proved yet" in early.stdout, early.stdout + early.stderr
        assert "--wait-proof later.json" in early.stdout and "proving" not in early.stderr
        checked = ("--trust", "here/trust.toml", *wanted, "--allow-simulated")
        assert decentral("verify", "later.json", *checked, folder=tmp_path, store="store").returncode == 1
        late = decentral("predict", "here", "--wait-proof", "later.json", folder=tmp_path, store="store")
        assert late.returncode == 0 and "proofs: stage-0 by stage-0-" in late.stdout, late.stdout + late.stderr
        assert decentral("verify", "later.json", *checked, folder=tmp_path, store="store").returncode == 0
        strict = decentral(*asked, folder=tmp_path, store="store")
        assert strict.returncode == 1 and "is simulated, which the policy does not allow" in strict.stdout
    finally:
        decentral("down", "here", folder=tmp_path, store="store")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    receipt = (tmp_path / "receipt.json").read_bytes()
    (elsewhere / "receipt.json").write_bytes(receipt)
    (elsewhere / "trust.toml").write_bytes((tmp_path / "here" / "trust.toml").read_bytes())

    def verified(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        return decentral("verify", name, "--trust", "trust.toml", *wanted, *more, folder=elsewhere, store="empty")

    valid = verified("receipt.json", "--allow-simulated")
    assert valid.returncode == 0, valid.stdout + valid.stderr
    assert "local test SRS: whoever made it could forge" in valid.stdout
    refused = verified("receipt.json")
    assert refused.returncode == 1 and "local test SRS" in refused.stdout and "--allow-simulated" in refused.stdout
    for place in (len(receipt) // 3, receipt.index(b'"zk"') + 2000, len(receipt) - 200):
        changed = bytearray(receipt)
        changed[place] ^= 1
        (elsewhere / "changed.json").write_bytes(changed)
        found = verified("changed.json", "--allow-simulated")
        assert found.returncode in {1, 2} and "Traceback" not in found.stderr, place
