"""Who comes and goes follows from the recipe and its seed; those who stay go on, and everything is written down."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.launch.churn import Change, read_changes, schedule
from decentral.launch.engine import Options, execute
from decentral.run.journal import Event
from decentral.run.recipe import Churn, Recipe, Simulation, load_recipe


def recipe_with(peers: int = 20, seed: int = 0, **churn: Any) -> Recipe:
    return Recipe(peers=peers, seed=seed, simulation=Simulation(churn=Churn(**churn)))


def first_changes(recipe: Recipe, count: int = 200) -> list[Change]:
    return list(itertools.islice(schedule(recipe).changes, count))


# ---- the schedule ---------------------------------------------------------------------------------------------------


def test_without_churn_everybody_stays() -> None:
    assert schedule(Recipe()).absent == frozenset() and list(schedule(Recipe()).changes) == []


def test_crashes_come_at_equal_intervals_until_their_share_is_gone() -> None:
    changes = first_changes(recipe_with(100, crash_per_minute=5.0, after=300.0, until=0.8))
    assert [change.at for change in changes] == pytest.approx([300 + 12 * number for number in range(80)])
    assert {change.what for change in changes} == {"crash"}
    assert len({change.peer for change in changes}) == 80


def test_the_same_peers_go_at_the_same_times_whether_they_crash_or_say_goodbye() -> None:
    crash, leave = (
        first_changes(recipe_with(50, crash_per_minute=6.0, until=0.5, gracefully=gracefully))
        for gracefully in (False, True)
    )
    assert [(c.at, c.peer) for c in crash] == [(c.at, c.peer) for c in leave]
    assert {change.what for change in leave} == {"leave"}


def test_a_seed_draws_who_goes() -> None:
    options = {"crash_per_minute": 5.0, "until": 0.5}
    assert first_changes(recipe_with(**options)) == first_changes(recipe_with(**options))
    assert first_changes(recipe_with(seed=1, **options)) != first_changes(recipe_with(**options))


@given(
    st.integers(1, 30),
    st.floats(0.5, 100),
    st.floats(0, 1),
    st.one_of(st.none(), st.floats(1, 200)),
    st.floats(0, 0.9),
    st.sampled_from([0.0, 3.0]),
)
def test_nobody_goes_twice_or_comes_without_having_gone(peers, rate, until, back, absent, joins) -> None:
    recipe = recipe_with(
        peers, crash_per_minute=rate, until=until, return_after=back, absent=absent, join_per_minute=joins
    )
    plan = schedule(recipe)
    away, at = set(plan.absent), 0.0
    for change in itertools.islice(plan.changes, 300):
        assert change.at >= at
        at = change.at
        assert (change.peer in away) == (change.what in ("return", "join"))
        away ^= {change.peer}
        if change.what == "crash":
            assert len(away) <= until * peers


# ---- a file ---------------------------------------------------------------------------------------------------------


def test_a_file_is_read_in_the_order_of_time_and_tells_who_is_absent(tmp_path: Path) -> None:
    file = tmp_path / "churn.csv"
    file.write_text("seconds, peer, event\n30,2,return\n10.5,2,crash\n5,1,join\n\n7,1,leave\n")
    plan = schedule(recipe_with(3, path=str(file)))
    assert list(plan.changes) == [
        Change(5.0, 1, "join"),
        Change(7.0, 1, "leave"),
        Change(10.5, 2, "crash"),
        Change(30.0, 2, "return"),
    ]
    assert plan.absent == {1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ":1: the first line"),
        ("time,peer,event\n", ":1: the first line"),
        ("seconds,peer,event\n1,2\n", ":2: 2 fields"),
        ("seconds,peer,event\n-1,2,crash\n", ":2: seconds"),
        ("seconds,peer,event\nnan,2,crash\n", ":2: seconds"),
        ("seconds,peer,event\nsoon,2,crash\n", ":2: seconds"),
        ("seconds,peer,event\n1,2,crash\n1,3,crash\n", ":3: peer: one of 0 to 2"),
        ("seconds,peer,event\n1,2,explode\n", ":2: event"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "churn.csv"
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        read_changes(file, 3)
    assert f"{file}{words}" in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv"):
        read_changes(tmp_path / "absent.csv", 3)


# ---- a run ----------------------------------------------------------------------------------------------------------

LASTING = ("rounds=40", "peers=6", "learner=null", "topology=full", "deadlines.probe=0.2", "evaluation.every=40")
"""About ten virtual seconds: a quarter for each round's training."""
SAMPLED = "fedavg fedavg.clients=3"


def simulate(out: Path, changes: str, *overrides: str) -> tuple[dict[str, Any], list[Event]]:
    out.mkdir()
    (out / "churn.csv").write_text(f"seconds,peer,event\n{changes}")
    churn = f"simulation.churn.path={out / 'churn.csv'}"
    recipe = load_recipe("dimat-digits", (*LASTING, churn, *overrides))
    directory, summary = execute(recipe, "sim", Options(out=out / "run"))
    return summary, [json.loads(line) for line in (directory.path / "events.jsonl").read_text().splitlines()]


def rounds_of(events: list[Event], peer: int) -> list[int]:
    return [event["round"] for event in events if event["event"] == "round" and event["peer"] == peer]


@pytest.mark.parametrize("algorithm", ["dpsgd", "gossip", "fedavg", SAMPLED])
def test_a_crash_is_written_down_and_the_others_go_on(tmp_path: Path, algorithm: str) -> None:
    summary, events = simulate(tmp_path / "run", "3.1,0,crash\n3.1,4,crash\n", *f"algorithm={algorithm}".split())
    assert summary["crashed"] == ["peer-0", "peer-4"] and summary["rejoined"] == []
    told = [(event["t"], event["other"]) for event in events if event["event"] == "crashed"]
    assert told == [(3.1, 0), (3.1, 4)]
    assert all(rounds_of(events, peer) == list(range(1, 41)) for peer in (1, 2, 3, 5))
    assert 0 < max(rounds_of(events, 0)) < 20
    assert max(event["t"] for event in events if event["peer"] == 4) <= 3.1
    assert any(event["event"] == "lost" and event["other"] == 4 for event in events) or "fedavg" in algorithm


@pytest.mark.parametrize("algorithm", ["dpsgd", "gossip", "fedavg", SAMPLED])
def test_who_returns_goes_on_with_the_others_from_its_checkpoint(tmp_path: Path, algorithm: str) -> None:
    summary, events = simulate(tmp_path / "run", "2.1,3,crash\n5.0,3,return\n", *f"algorithm={algorithm}".split())
    assert summary["crashed"] == summary["rejoined"] == ["peer-3"]
    [back] = [event for event in events if event["event"] == "started" and event["rejoined"]]
    assert back["peer"] == 3 and back["resumed"] and back["t"] >= 5.0
    ended = rounds_of(events, 3)
    assert ended == sorted(set(ended)) and ended[-1] == 40 and len(ended) < 40
    assert all(rounds_of(events, peer)[-1] == 40 for peer in range(6))


def test_a_crash_says_nothing_and_a_leave_says_goodbye(tmp_path: Path) -> None:
    crash, leave = (
        simulate(tmp_path / what, f"3.1,4,{what}\n", "algorithm=dpsgd", "deadlines.probe=1.0")
        for what in ("crash", "leave")
    )
    assert leave[0]["left"] == ["peer-4"] and leave[0]["crashed"] == [] == crash[0]["left"]
    assert any(event["event"] == "lost" for event in crash[1])
    assert not any(event["event"] == "lost" for event in leave[1])
    assert leave[0]["virtual_seconds"] <= crash[0]["virtual_seconds"]


def test_who_joins_later_was_not_there_before(tmp_path: Path) -> None:
    summary, events = simulate(tmp_path / "run", "4.0,5,join\n", "algorithm=gossip", "deadlines.round=2.0")
    assert summary["joined"] == ["peer-5"] and summary["rejoined"] == []
    assert min(event["t"] for event in events if event["peer"] == 5) >= 4.0
    assert rounds_of(events, 5)[-1] == 40


def test_a_crash_with_real_training_returns_from_its_files(tmp_path: Path) -> None:
    real = ("learner=classifier", "model={name: mlp, hidden: [8]}", "rounds=6", "algorithm=dpsgd", "data.subset=120")
    slow = ("simulation.samples_per_second=40.0", "evaluation.every=6")
    summary, events = simulate(tmp_path / "run", "1.7,2,crash\n2.2,2,return\n", *real, *slow)
    assert summary["crashed"] == summary["rejoined"] == ["peer-2"]
    assert rounds_of(events, 2)[-1] == 6
    assert summary["accuracy"]["mean"] > 0.1


def test_a_run_ends_when_nobody_is_left_to_wait_for(tmp_path: Path) -> None:
    summary, _ = simulate(tmp_path / "run", "3.0,1,crash\n5000,1,return\n", "algorithm=dpsgd")
    assert summary["virtual_seconds"] < 100 and summary["rejoined"] == []


def test_a_run_whose_peers_are_all_gone_waits_for_those_who_return(tmp_path: Path) -> None:
    all_gone = "".join(f"3.0,{peer},crash\n" for peer in range(6)) + "".join(
        f"9.0,{peer},return\n" for peer in range(6)
    )
    summary, events = simulate(tmp_path / "run", all_gone, "algorithm=dpsgd")
    assert len(summary["rejoined"]) == 6
    assert all(rounds_of(events, peer)[-1] == 40 for peer in range(6))


def test_churn_repeats_with_its_seed_to_the_last_event(tmp_path: Path) -> None:
    changes = "2.1,3,crash\n3.3,1,leave\n5.0,3,return\n"
    one, same = (simulate(tmp_path / name, changes, "algorithm=gossip")[1] for name in ("one", "same"))
    assert one == same


def test_a_run_with_churn_is_not_resumed(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event["event"] == "round" and event["round"] == 3:
            raise Stop

    overrides = ("rounds=6", "peers=3", "data.subset=60", "simulation.churn.after=1.0", "algorithm=dpsgd")
    recipe = load_recipe("dimat-digits", overrides)
    with pytest.raises((Stop, BaseExceptionGroup)):
        execute(recipe, "sim", Options(out=tmp_path / "run", observe=stop))
    with pytest.raises(UserError, match="run it again"):
        execute(recipe, "sim", Options(out=tmp_path / "run", resume=True))
