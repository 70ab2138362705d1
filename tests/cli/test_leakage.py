"""What `decentral leakage` says, keeps, and makes `up` refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decentral.models.catalogue import build_model
from decentral.trust.leakage import FILE, Measurement


def decentral(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small network from a file, the first of its three stages at the client."""
    torch.manual_seed(0)
    save_file(build_model("mlp", (1, 8, 8), 10, hidden=[12, 6]).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "mine.yaml").write_text(
        "model: {file: model.safetensors, name: mlp, hidden: [12, 6]}\n"
        "stages: ['2', '4']\nlocal: 1\ndata: {name: digits}\n"
    )
    return tmp_path / "mine.yaml"


@pytest.mark.slow
def test_every_cut_is_measured_kept_and_bounds_what_may_go_up(recipe: Path) -> None:
    folder = recipe.parent
    bound = ("--set", "policy.leakage=0.1")
    refused = decentral("up", "mine.yaml", "--dir", "here", *bound, folder=folder)
    assert refused.returncode == 2
    assert "decentral leakage here" in refused.stderr

    found = decentral("leakage", "here", "--json", folder=folder)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert [each["part"] for each in told["exposures"]] == ["stage-0", "stage-1", "stage-2"]
    assert told["at"] == ["client", "peers", "peers"]
    assert told["policy"] == 0.1
    kept = Measurement.load(folder / "here")
    assert kept is not None
    assert [each.correlation for each in kept.exposures] == [each["correlation"] for each in told["exposures"]]
    assert 0.1 < kept.exposures[1].leakage == told["exposures"][1]["leakage"] < kept.exposures[0].leakage

    refused = decentral("up", "mine.yaml", "--dir", "here", *bound, folder=folder)
    assert refused.returncode == 2
    assert "for stage-1 tells" in refused.stderr

    loose = ("--set", "policy.leakage=1.0", "--dir", "there")
    measured = decentral("leakage", "mine.yaml", *loose, folder=folder)
    assert measured.returncode == 0, measured.stderr
    assert f"written to {Path('there') / FILE}" in measured.stdout
    try:
        up = decentral("up", "mine.yaml", *loose, folder=folder)
        assert up.returncode == 0, up.stderr
    finally:
        decentral("down", "there", folder=folder)


@pytest.mark.slow
def test_a_recipe_is_measured_without_leaving_anything(recipe: Path) -> None:
    before = sorted(recipe.parent.iterdir())
    noise = ("--set", "noise={mechanism: laplace, epsilon: 1.0, clip: 1.0}")
    found = decentral("leakage", "mine.yaml", *noise, folder=recipe.parent)
    assert found.returncode == 0, found.stderr
    assert "stage-0  the client   1.000    1.000" in found.stdout
    assert "laplace noise: epsilon 1" in found.stdout
    assert sorted(recipe.parent.iterdir()) == before


@pytest.mark.slow
def test_what_has_no_cut_is_named(recipe: Path) -> None:
    trains = decentral("leakage", "dimat-digits", folder=recipe.parent)
    assert trains.returncode == 2
    assert "for recipes with stages" in trains.stderr
    (recipe.parent / "empty").mkdir()
    empty = decentral("leakage", "empty", folder=recipe.parent)
    assert empty.returncode == 2
    assert "empty" in empty.stderr
    folder = decentral("leakage", "empty", "--set", "local=1", folder=recipe.parent)
    assert folder.returncode == 2
    assert "--set and --dir are for recipes" in folder.stderr
