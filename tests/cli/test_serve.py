"""`decentral serve` names what it cannot serve; what it can, tests/launch/test_serving shows."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe


def test_a_run_without_anything_to_serve_is_named(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", load_recipe("dimat-digits"), "local"):
        pass
    result = CliRunner().invoke(app, ["serve", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "nothing to serve" in result.output


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no run" in result.output
