"""`decentral remove` names what cannot leave; how experts do leave is told in tests/launch/test_changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunDirectory.create(tmp_path / "run", load_recipe("diffusion-digits"), "local").close()
    return tmp_path / "run"


def test_who_leaves_has_to_be_there(run: Path) -> None:
    result = CliRunner().invoke(app, ["remove", str(run), "expert-0"])
    assert result.exit_code == 2
    assert "did not come to its end" in " ".join(result.output.split())
    with RunDirectory.open(run).hold():
        result = CliRunner().invoke(app, ["remove", str(run), "expert-0"])
    assert result.exit_code == 2
    assert "but does not serve" in " ".join(result.output.split())
