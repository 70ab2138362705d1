"""A run is over when its last round is, and the best of its models is that of an honest peer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from decentral.errors import RunDirectoryError
from decentral.run.directory import RunDirectory
from decentral.run.finished import FinishedRun
from decentral.run.recipe import Recipe

RECIPE = Recipe.model_validate({"peers": 3, "rounds": 4})


def run(path: Path, recipe: Recipe = RECIPE, rounds: int = 4, per_peer: tuple[float | None, ...] = ()) -> Path:
    with RunDirectory.create(path, recipe, "local") as made:
        summary = {"rounds": rounds, "accuracy": {"per_peer": list(per_peer or (0.1,) * recipe.peers)}}
        made.write(made.summary_file, json.dumps(summary).encode())
    return path


def test_the_best_of_those_measured_is_chosen_and_the_first_of_equals(tmp_path: Path) -> None:
    assert FinishedRun.open(run(tmp_path / "a", per_peer=(0.2, 0.9, 0.9))).choose(None) == 1
    assert FinishedRun.open(run(tmp_path / "b", per_peer=(None, None, 0.3))).choose(None) == 2


def test_the_one_that_is_asked_for_is_chosen_if_there_is_one(tmp_path: Path) -> None:
    finished = FinishedRun.open(run(tmp_path / "run"))
    assert finished.choose(2) == 2
    with pytest.raises(RunDirectoryError, match="peers 0 to 2"):
        finished.choose(3)


def test_who_was_told_to_attack_is_not_chosen_however_good(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "attack": {"name": "alie", "peers": [0]}})
    assert FinishedRun.open(run(tmp_path / "run", recipe, per_peer=(0.9, 0.1, 0.2))).choose(None) == 2


def test_where_nobody_was_measured_a_person_has_to_say(tmp_path: Path) -> None:
    finished = FinishedRun.open(run(tmp_path / "run", per_peer=(None, None, None)))
    with pytest.raises(RunDirectoryError, match=r"model\.peer"):
        finished.choose(None)
    assert finished.choose(1) == 1


def test_a_run_that_goes_on_or_was_interrupted_is_refused_with_how_to_end_it(tmp_path: Path) -> None:
    with (
        RunDirectory.create(tmp_path / "going", RECIPE, "local"),
        pytest.raises(RunDirectoryError, match="not over yet"),
    ):
        FinishedRun.open(tmp_path / "going")
    with pytest.raises(RunDirectoryError, match=r"interrupted.*--resume"):
        FinishedRun.open(tmp_path / "going")
    stopped = run(tmp_path / "stopped", rounds=3)
    with pytest.raises(RunDirectoryError, match=r"round 3 of 4.*--resume"):
        FinishedRun.open(stopped)


def test_being_over_can_be_asked(tmp_path: Path) -> None:
    assert FinishedRun.is_over(run(tmp_path / "done"))
    assert not FinishedRun.is_over(run(tmp_path / "stopped", rounds=3))
    RunDirectory.create(tmp_path / "begun", RECIPE, "local").close()
    assert not FinishedRun.is_over(tmp_path / "begun")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"rounds": 4, "accuracy": {}}', '{"rounds": 4, "accuracy": null}']
)
def test_a_damaged_summary_is_named(tmp_path: Path, content: str) -> None:
    (run(tmp_path / "run") / "summary.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"summary\.json: damaged"):
        FinishedRun.open(tmp_path / "run")
