"""Progress is a table where there is a terminal, lines where there is none, and nothing when it is not wanted."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from decentral.cli.progress import Progress, readable_seconds, result_lines
from decentral.run.recipe import Recipe
from decentral.run.summary import attack_words

RECIPE = Recipe(peers=3, rounds=2)


def told(progress: Progress, *, rounds: int = 2) -> None:
    with progress:
        for round in range(1, rounds + 1):
            for peer in range(3):
                progress({"t": 1.0, "peer": peer, "event": "evaluated", "round": round, "accuracy": 0.25 * round})
                progress({"t": 1.0, "peer": peer, "event": "round", "round": round, "bytes": {"total": 1000 * round}})


def written(*, terminal: bool, hidden: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, quiet=hidden)
    told(Progress(RECIPE, hidden=hidden, console=console))
    return out.getvalue()


def test_without_a_terminal_there_are_plain_lines_and_always_the_last_round():
    text = written(terminal=False)
    assert "\x1b" not in text
    assert "round 2/2, 3/3 peers, mean accuracy 0.5000, 6.0 kB sent" in text


def test_on_a_terminal_every_peer_has_a_line():
    text = written(terminal=True)
    assert all(f"peer-{index}" in text for index in range(3))


def test_how_long_the_rest_will_take_is_told_while_there_is_a_rest(monkeypatch: pytest.MonkeyPatch):
    now, out = 1000.0, io.StringIO()
    monkeypatch.setattr("time.monotonic", lambda: now)
    recipe = Recipe(peers=1, rounds=5)
    with Progress(recipe, console=Console(file=out, force_terminal=False, width=100)) as progress:
        progress({"t": 0.0, "peer": 0, "event": "started", "round": 1, "rejoined": False})  # a run that was resumed
        for round in range(2, 6):
            now += 10.0
            progress({"t": 1.0, "peer": 0, "event": "round", "round": round, "bytes": {"total": 1000}})
    lines = out.getvalue().splitlines()
    assert [line.partition(" sent")[2] for line in lines[:3]] == [f", about {left} s left" for left in (30, 20, 10)]
    assert lines[-1] == "round 5/5, 1/1 peers, 1.0 kB sent"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (190, "3 min"), (9000, "2.5 h")])
def test_a_guess_of_seconds_is_no_more_exact_than_it_is(seconds, words):
    assert readable_seconds(seconds) == words


def test_hundreds_of_peers_do_not_report_whom_they_lost():
    out = io.StringIO()
    with Progress(Recipe(peers=100), console=Console(file=out, force_terminal=False)) as progress:
        progress({"t": 1.0, "peer": 1, "event": "lost", "round": 1, "other": 2})
    assert out.getvalue() == ""


def test_hidden_progress_writes_nothing():
    assert written(terminal=True, hidden=True) == written(terminal=False, hidden=True) == ""


@pytest.mark.parametrize("event", ["crashed", "rejoined", "left", "joined"])
def test_a_crash_and_a_return_are_told_at_once(event):
    out = io.StringIO()
    with Progress(RECIPE, console=Console(file=out, force_terminal=False)) as progress:
        progress({"t": 1.0, "peer": None, "event": event, "other": 2})
    assert out.getvalue() == f"peer-2 {event}\n"


def test_the_result_of_a_simulated_run_says_that_its_seconds_are_simulated():
    summary = {
        "accuracy": {"mean": 0.5, "min": 0.25, "max": 0.75},
        "bytes": {"total": 2_500_000, "model": 2_400_000},
        "seconds": {"wall": 9.0},
        "virtual_seconds": None,
        "rounds": 2,
        "peers": 3,
        "crashed": ["peer-1"],
        "rejoined": [],
    }
    real = "\n".join(result_lines(summary))
    assert "0.5000 mean (0.2500 to 0.7500)" in real and "2.5 MB" in real and "9.0 s" in real
    assert "crashed    peer-1" in real and "rejoined" not in real
    assert "9.0 simulated seconds" in "\n".join(result_lines({**summary, "virtual_seconds": 9.0}))


def test_an_attack_is_announced_and_the_result_is_that_of_the_honest():
    recipe = Recipe.model_validate({"peers": 3, "rounds": 2, "attack": {"name": "sign-flip", "peers": [2]}})
    out = io.StringIO()
    told(Progress(recipe, console=Console(file=out, force_terminal=False, width=100)))
    assert out.getvalue().startswith("attack: sign-flip by peer 2 (told to by the recipe)\n")
    summary = {
        "accuracy": {"mean": 0.5, "min": 0.25, "max": 0.75},
        "attack": {"words": attack_words(recipe), "accuracy": 0.125},
        "bytes": {"total": 2_500_000, "model": 2_400_000},
        "seconds": {"wall": 9.0},
        "virtual_seconds": None,
        "rounds": 2,
        "peers": 3,
        "crashed": [],
        "rejoined": [],
    }
    lines = result_lines(summary)
    assert lines[0] == "accuracy   0.5000 mean (0.2500 to 0.7500), of the honest peers"
    assert lines[1] == "attack     sign-flip by peer 2 (told to by the recipe)"
    assert lines[2].startswith("attackers  0.1250")


def test_where_samples_are_drawn_the_table_says_whose_turn_it_is():
    out = io.StringIO()
    recipe = Recipe.model_validate({"algorithm": "modest", "peers": 3, "rounds": 4})
    with Progress(recipe, console=Console(file=out, force_terminal=True, width=100)) as progress:
        progress({"t": 1.0, "peer": 2, "event": "phase", "round": 3, "phase": "train"})
    assert "round 3 of 4: peer-2 in the sample" in out.getvalue()


def test_of_many_names_only_the_first_are_listed():
    summary = {
        "accuracy": {"mean": None},
        "bytes": {"total": 2, "model": 1},
        "seconds": {"wall": 9.0},
        "virtual_seconds": None,
        "rounds": 2,
        "peers": 900,
        "crashed": [f"peer-{index}" for index in range(500)],
    }
    [line] = [line for line in result_lines(summary) if line.startswith("crashed")]
    assert line.endswith("peer-23 and 476 more")


def test_an_ensemble_is_told_of_by_its_losses_and_its_router():
    nothing = {"mean": None, "min": None, "max": None, "per_peer": []}
    summary = {
        "accuracy": nothing, "loss": 0.25, "router": {"accuracy": 0.875, "loss": 1.0}, "seconds": {"wall": 1.0},
        "bytes": {"total": 10, "model": 10}, "rounds": 1, "peers": 3, "virtual_seconds": None,
    }  # fmt: skip
    loss, router, *_ = result_lines(summary)
    assert loss == "loss       0.2500 mean of the experts, each on test images of its cluster"
    assert router == "router     0.8750 of noisy test images sent to their cluster"
    assert not any("router" in line for line in result_lines({k: v for k, v in summary.items() if k != "router"}))
