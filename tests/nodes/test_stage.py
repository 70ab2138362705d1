"""A stage's program works by hand: it explains itself, and names what it cannot use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from decentral import locate
from decentral.run.choice import Choice
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe
from decentral.serving.stages.proved import ProvedService
from decentral.serving.stages.stage import StageService
from nodes.stage import services


def stage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(locate.folder("nodes") / "stage.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_behaviour_lies_in_floats_and_in_proved_numbers_or_about_proofs_alone() -> None:
    assert services(None) == (StageService, ProvedService)
    drifting: tuple[Any, Any] = services(Choice(name="drift", options={"tolerance": 0.5}))
    assert [each.func.__name__ for each in drifting] == ["Drift", "ProvedDrift"]
    assert all(each.keywords == {"tolerance": 0.5} for each in drifting)
    assert issubclass(drifting[1].func, ProvedService)
    plain, proved = services(Choice(name="damaged-proof"))
    assert plain is StageService
    assert cast(Any, proved).func.__name__ == "DamagedProof"


def test_it_explains_itself() -> None:
    done = stage("--help")
    assert done.returncode == 0 and "--index" in done.stdout and "--behaviour" in done.stdout


def test_a_folder_without_a_model_in_stages_is_named(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "trains", Recipe(), "local").close()
    done = stage("--dir", str(tmp_path / "trains"), "--index", "0")
    assert done.returncode == 2 and "in training, not in serving" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "trains" / "run.json").read_text())["does"] == "training"
