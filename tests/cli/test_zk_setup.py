"""`decentral zk setup` of a cluster's folder: pinned in its trust file, checked again, and said to whoever asks."""

from __future__ import annotations

import json
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
