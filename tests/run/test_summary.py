"""Summaries: events come to the same figures in every world, and in the simulator to the same bytes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from decentral.run.directory import RunDirectory
from decentral.run.journal import Event
from decentral.run.recipe import Recipe
from decentral.run.summary import attack_words, bytes_by_peer, phase_seconds, summarise, write_summary

KEYS = [
    "recipe", "hash", "algorithm", "world", "peers", "rounds", "accuracy", "loss", "attack", "bytes", "seconds",
    "virtual_seconds", "evaluation", "matching", "crashed", "rejoined", "left", "joined", "versions", "seed",
]  # fmt: skip


def event(t: float, peer: int | None, kind: str, **fields: object) -> Event:
    return {"t": t, "peer": peer, "event": kind, **fields}


def sent(total: int) -> dict[str, int]:
    return {"model": total - 1, "control": 1, "evidence": 0, "total": total}


@pytest.fixture
def two() -> Recipe:
    return Recipe(peers=2, rounds=3)


def test_a_summary_has_the_keys_that_others_read(run: RunDirectory) -> None:
    summary = write_summary(run)
    assert list(summary) == KEYS
    assert list(summary["accuracy"]) == ["mean", "min", "max", "per_peer"]
    assert list(summary["bytes"]) == ["model", "control", "evidence", "total"]
    assert sorted(summary["seconds"]) == sorted(["wall", "train", "exchange", "merge", "evaluate", "startup"])
    assert json.loads(run.summary_file.read_text()) == summary
    assert summary["hash"] == run.recipe.hash
    assert (summary["crashed"], summary["rejoined"]) == (["peer-3"], ["peer-3"])
    assert (summary["rounds"], summary["peers"], summary["virtual_seconds"]) == (10, 5, None)
    assert {"python", "torch", "decentral"} <= summary["versions"].keys()


def test_accuracy_is_that_of_each_peers_last_evaluation(two: Recipe) -> None:
    events = [
        event(1, 0, "evaluated", round=1, accuracy=0.2, loss=2.0, seconds=0.1),
        event(2, 1, "evaluated", round=1, accuracy=0.5, loss=1.0, seconds=0.1),
        event(3, 0, "evaluated", round=2, accuracy=0.8, loss=0.5, seconds=0.1),
    ]
    summary = summarise(two, "local", events)
    assert summary["accuracy"] == {"mean": pytest.approx(0.65), "min": 0.5, "max": 0.8, "per_peer": [0.8, 0.5]}
    assert summary["loss"] == pytest.approx(0.75)


def test_a_peer_that_was_never_evaluated_is_null_and_no_part_of_the_mean(two: Recipe) -> None:
    events = [event(1, 1, "evaluated", round=1, accuracy=0.5, loss=None, seconds=0.1)]
    summary = summarise(two, "local", events)
    assert summary["accuracy"] == {"mean": 0.5, "min": 0.5, "max": 0.5, "per_peer": [None, 0.5]}
    assert summary["loss"] is None


def test_means_are_over_the_honest_and_attackers_stand_apart() -> None:
    recipe = Recipe.model_validate({"peers": 3, "attack": {"name": "sign-flip", "peers": [1], "scale": 2.0}})
    events = [
        event(1, peer, "evaluated", round=1, accuracy=accuracy, loss=loss, seconds=0.1)
        for peer, accuracy, loss in [(0, 0.5, 1.0), (1, 0.1, 99.0), (2, 1.0, 2.0)]
    ]
    summary = summarise(recipe, "sim", events)
    assert summary["accuracy"] == {"mean": 0.75, "min": 0.5, "max": 1.0, "per_peer": [0.5, 0.1, 1.0]}
    assert summary["loss"] == 1.5
    assert summary["attack"] == {
        "name": "sign-flip",
        "peers": ["peer-1"],
        "from_round": 1,
        "options": {"scale": 2.0},
        "words": "sign-flip by peer 1 (told to by the recipe)",
        "accuracy": 0.1,
    }


def test_an_attack_is_told_in_one_line_however_many_take_part() -> None:
    recipe = Recipe.model_validate({"peers": 50, "attack": {"name": "alie", "peers": list(range(12)), "from_round": 3}})
    assert (
        attack_words(recipe)
        == "alie by peers 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more from round 3 on (told to by the recipe)"
    )
    assert attack_words(Recipe()) is None


def test_a_run_in_which_nothing_happened_has_a_summary(two: Recipe) -> None:
    summary = summarise(two, "sim", [])
    assert summary["accuracy"] == {"mean": None, "min": None, "max": None, "per_peer": [None, None]}
    assert (summary["rounds"], summary["bytes"]["total"], summary["virtual_seconds"]) == (0, 0, 0.0)
    json.dumps(summary, allow_nan=False)


def test_bytes_are_summed_over_peers_and_cumulative_within_one(two: Recipe) -> None:
    events = [
        event(1, 0, "round", round=1, bytes=sent(10)),
        event(1, 1, "round", round=1, bytes=sent(20)),
        event(2, 0, "finished", round=2, digest="", bytes=sent(15)),
    ]
    assert [counts["total"] for counts in bytes_by_peer(two, events)] == [15, 20]
    assert summarise(two, "local", events)["bytes"] == {"model": 33, "control": 2, "evidence": 0, "total": 35}


def test_seconds_of_a_phase_are_the_mean_over_the_peers(two: Recipe) -> None:
    events = [
        event(0.5, None, "launched", round=0),
        event(2.0, 0, "started", round=0, resumed=False, rejoined=False),
        event(2.5, 1, "started", round=0, resumed=False, rejoined=False),
        event(3, 0, "trained", round=1, loss=1.0, samples=1, seconds=1.0),
        event(4, 0, "trained", round=2, loss=1.0, samples=1, seconds=2.0),
        event(5, 1, "merged", round=1, weights={}, moved=None, seconds=4.0),
        event(9, 1, "started", round=1, resumed=True, rejoined=True),
    ]
    assert phase_seconds(two, events)[0] == {"train": 3.0, "exchange": 0, "merge": 0, "evaluate": 0}
    assert summarise(two, "local", events)["seconds"] == {
        "wall": 9, "train": 1.5, "exchange": 0, "merge": 2.0, "evaluate": 0, "startup": 2.0
    }  # fmt: skip
    assert summarise(two, "sim", events, wall=0.25)["seconds"]["wall"] == 0.25
    assert summarise(two, "sim", events, wall=0.25)["virtual_seconds"] == 9


def test_metrics_have_one_row_per_peer_and_evaluation(run: RunDirectory) -> None:
    write_summary(run)
    with run.metrics_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["round", "peer", "t", "accuracy", "loss", "training_loss"]
    assert len(rows) == 5 * 10 - 3  # one peer was away for three rounds
    assert [(int(row["round"]), int(row["peer"])) for row in rows] == sorted(
        (int(row["round"]), int(row["peer"])) for row in rows
    )


def test_two_equal_simulated_runs_come_to_the_same_bytes_seconds_apart(
    tmp_path: Path, recipe: Recipe, write_run: Callable[[Path, Recipe, str], RunDirectory]
) -> None:
    runs = [write_run(tmp_path / name, recipe, "sim") for name in "ab"]
    summaries = [write_summary(run, wall) for run, wall in zip(runs, (1.0, 2.0), strict=True)]
    for name in ("recipe.yaml", "run.json", "metrics.csv", "events.jsonl"):
        assert (runs[0].path / name).read_bytes() == (runs[1].path / name).read_bytes()
    assert summaries[0].pop("seconds") != summaries[1].pop("seconds")
    assert summaries[0] == summaries[1]


def test_a_summary_is_written_again_after_a_resume(run: RunDirectory) -> None:
    first = write_summary(run)
    assert write_summary(run) == first


def test_what_a_launcher_needs_is_free_of_torch(root: Path) -> None:
    import subprocess

    program = (
        "import sys; import decentral.run.summary, decentral.run.report, decentral.run.standing; "
        "from decentral.run.recipe import load_recipe; load_recipe('dimat-digits'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=root).returncode == 0


def test_a_router_is_measured_by_other_things_and_stands_apart() -> None:
    recipe = Recipe(algorithm="experts", peers=3, rounds=1)
    assert (recipe.router, recipe.aside) == (2, (2,)) and Recipe(peers=3).router is None
    events = [
        event(1.0, 0, "evaluated", round=1, accuracy=None, loss=0.2, seconds=0.1),
        event(1.0, 1, "evaluated", round=1, accuracy=None, loss=0.4, seconds=0.1),
        event(1.0, 2, "evaluated", round=1, accuracy=0.9, loss=7.0, seconds=0.1),
    ]
    summary = summarise(recipe, "sim", events)
    assert summary["loss"] == pytest.approx(0.3) and summary["accuracy"]["mean"] is None
    assert summary["router"] == {"accuracy": 0.9, "loss": 7.0}
    assert summarise(recipe, "sim", events[:2])["router"] == {"accuracy": None, "loss": None}
    assert "router" not in summarise(Recipe(peers=3), "sim", events)
