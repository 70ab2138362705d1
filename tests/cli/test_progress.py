"""Progress is a table where there is a terminal, lines where there is none, and nothing when it is not wanted."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from decentral.cli.progress import Progress, result_lines
from decentral.run.recipe import Recipe

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


def test_hidden_progress_writes_nothing():
    assert written(terminal=True, hidden=True) == written(terminal=False, hidden=True) == ""


@pytest.mark.parametrize("event", ["crashed", "rejoined"])
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
