"""Where samples are drawn, status tells whose turn it is and whether the peers see the same others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal
from decentral.run.recipe import Recipe

runner = CliRunner()


def drawn(round: int, view: str) -> dict[str, object]:
    return {"round": round, "participants": [2, 0], "aggregators": [2], "candidates": 3, "view": view}


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Three peers in their second round; two of them have drawn the next sample."""
    recipe = Recipe.model_validate({"algorithm": "modest", "peers": 3, "rounds": 9, "sampling": {"size": 2}})
    with RunDirectory.create(tmp_path / "run", recipe, "local") as made:
        for peer in range(3):
            with Journal(made.journal_file(f"peer-{peer}"), peer, lambda: 1.0) as journal:
                journal.record("started", round=0, resumed=False, rejoined=False)
                if peer < 2:
                    journal.record("phase", round=2, phase="train")
                    journal.record("trained", round=2, loss=0.5, samples=10, seconds=0.1)
                    journal.record("sampled", **drawn(3, f"view-{peer}"))
    return str(tmp_path / "run")


def test_people_read_the_round_its_sample_and_the_views(run: str) -> None:
    told = runner.invoke(app, ["status", run]).stdout
    assert "round 2 of 9: peer-0, peer-1 in the sample, 2 done" in told
    assert "averaged by peer-2" in told
    assert "1 of 2 who drew for round 3 see the same candidates (3), 2 found the same sample" in told
    assert "peer-1" in told.partition("phase")[2], "the table of peers follows"


def test_programs_read_the_same(run: str) -> None:
    told = json.loads(runner.invoke(app, ["status", run, "--json"]).stdout)
    assert set(told["peers"]) == {"peer-0", "peer-1", "peer-2"}
    sample = told["sample"]
    assert (sample["round"], sample["participants"], sample["aggregators"]) == (2, ["peer-0", "peer-1"], ["peer-2"])
    assert sample["agreement"] == {"round": 3, "asked": 2, "view": 1, "sample": 2, "candidates": [3, 3]}


def test_other_algorithms_have_no_sample(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Recipe(peers=2), "local").close()
    assert "sample" not in json.loads(runner.invoke(app, ["status", str(tmp_path / "run"), "--json"]).stdout)


def test_before_the_first_round_nothing_is_said_of_samples(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Recipe(algorithm="modest"), "local").close()
    assert json.loads(runner.invoke(app, ["status", str(tmp_path / "run"), "--json"]).stdout)["sample"] is None
    assert "in the sample" not in runner.invoke(app, ["status", str(tmp_path / "run")]).stdout
