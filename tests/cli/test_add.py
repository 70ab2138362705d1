"""`decentral add` says what it will serve, and names what it was not given; the rest is in tests/launch/test_guests."""

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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the folder of an expert, or --replica-of N"),
        (("expert", "--replica-of", "1"), "the folder of an expert, or --replica-of N"),
        (("--replica-of", "1", "--router", "router"), "changes nothing for the router"),
        (("--replica-of", "1", "--refit"), "--refit belongs to an expert"),
        (("expert", "--router", "router", "--refit"), "makes the router that --router would name"),
        (("--replica-of", "-1"), "--replica-of"),
        (("--replica-of", "0"), "did not come to its end"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_added_is_named(run: Path, arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, ["add", str(run), *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_cluster_that_is_up_is_left_alone(run: Path) -> None:
    with RunDirectory.open(run).hold():
        result = CliRunner().invoke(app, ["add", str(run), "--replica-of", "0"])
    assert result.exit_code == 2
    assert "is up, but does not serve; wait, or end it: decentral down" in " ".join(result.output.split())
