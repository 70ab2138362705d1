"""One run has its page in its folder, several have one together, wherever it is wanted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe

runner = CliRunner()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two runs in which nothing has happened yet."""
    monkeypatch.chdir(tmp_path)
    for algorithm in ("fedavg", "modest"):
        RunDirectory.create(algorithm, Recipe(algorithm=algorithm), "sim").close()
    return ["fedavg", "modest"]


def test_several_runs_are_compared_in_one_page(folders: list[str]) -> None:
    written = runner.invoke(app, ["report", *folders, "--out", "both.html"])
    assert (written.exit_code, written.stdout) == (0, "both.html\n")
    page = Path("both.html").read_text()
    assert "fedavg" in page and "modest" in page
    assert not any((Path(folder) / "report.html").exists() for folder in folders)


def test_a_comparison_has_a_place_of_its_own_if_none_is_said(folders: list[str]) -> None:
    told = json.loads(runner.invoke(app, ["report", *folders, "--json"]).stdout)
    assert told == {"report": "comparison.html"} and Path("comparison.html").is_file()


def test_the_page_of_one_run_stays_with_it(folders: list[str]) -> None:
    refused = runner.invoke(app, ["report", folders[0], "--out", "elsewhere.html"])
    assert refused.exit_code == 2 and "--out is for comparisons" in refused.stderr
    assert not Path("elsewhere.html").exists()


@pytest.mark.parametrize(("others", "word"), [(["nowhere"], "nowhere"), (["./fedavg"], "named twice")])
def test_what_cannot_be_compared_is_named(folders: list[str], others: list[str], word: str) -> None:
    refused = runner.invoke(app, ["report", "fedavg", *others])
    assert refused.exit_code == 2 and word in refused.stderr
