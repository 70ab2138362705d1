"""One recipe, any world; and what is left when a run does not reach its end."""

from __future__ import annotations

import json
import signal

import pytest

from decentral.errors import RunDirectoryError, UserError
from decentral.launch.engine import Options, check_world, common_round, execute, open_directory
from decentral.launch.plan import make_plan
from decentral.run.recipe import load_recipe

SMALL = ("rounds=3", "peers=2", "model={name: mlp, hidden: [8]}")


def test_a_world_is_named_or_the_nearest_is_offered():
    assert check_world("sim") == "sim"
    with pytest.raises(UserError, match="did you mean 'local'"):
        check_world("locl")


def test_a_run_that_breaks_is_reported_as_far_as_it_came(tmp_path):
    class Stop(Exception):
        pass

    def observe(event):
        if event["event"] == "phase" and event["round"] == 3:
            raise Stop

    with pytest.raises((Stop, BaseExceptionGroup)):
        execute(load_recipe("dimat-digits", SMALL), "sim", Options(out=tmp_path / "run", observe=observe))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("number", "ctrl_c"),
    [
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_IGN),
    ],
    ids=["ctrl-c", "sigterm", "sigterm in the background of a script, which hears of no ctrl-c"],
)
def test_who_interrupts_a_run_is_told_the_way_to_go_on(tmp_path, number, ctrl_c):
    def observe(event):
        if event["event"] == "trained":
            signal.raise_signal(number)

    before = signal.signal(signal.SIGINT, ctrl_c)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            execute(load_recipe("dimat-digits", SMALL), "sim", Options(out=tmp_path / "run", observe=observe))
    finally:
        signal.signal(signal.SIGINT, before)
    assert "--resume" in stopped.value.__notes__[0] and str(tmp_path / "run") in stopped.value.__notes__[0]
    assert (tmp_path / "run" / "summary.json").is_file()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_resumed_run_goes_on_from_the_newest_round_that_all_have_undamaged(tmp_path):
    recipe = load_recipe("dimat-digits", SMALL)
    directory, _ = execute(recipe, "sim", Options(out=tmp_path / "run"))
    plan = make_plan(recipe)
    assert common_round(directory, plan) == 3
    newest = directory.checkpoints / "peer-1" / "round-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert common_round(directory, plan) == 2


def test_a_peer_that_was_gone_long_before_holds_no_resumed_run_back(tmp_path):
    recipe = load_recipe("dimat-digits", (*SMALL, "rounds=6", "peers=3"))
    directory, _ = execute(recipe, "sim", Options(out=tmp_path / "run"))
    for file in (directory.checkpoints / "peer-0").iterdir():
        file.unlink()
    for name in ("peer-1", "peer-2"):
        (directory.checkpoints / name / "round-000006.safetensors").unlink()
    assert common_round(directory, make_plan(recipe)) == 5
    _, summary = execute(recipe, "sim", Options(out=tmp_path / "run", resume=True))
    assert summary["rounds"] == 6 and summary["crashed"] == []


def test_a_run_without_any_common_round_is_not_begun_anew(tmp_path):
    recipe = load_recipe("dimat-digits", SMALL)
    directory, _ = execute(recipe, "sim", Options(out=tmp_path / "run"))
    (directory.checkpoints / "peer-0" / "round-000003.safetensors").unlink()
    (directory.checkpoints / "peer-1" / "round-000002.safetensors").unlink()
    before = directory.journal_file("peer-0").read_bytes()
    with pytest.raises(RunDirectoryError, match="no undamaged round in common"):
        common_round(directory, make_plan(recipe))
    assert directory.journal_file("peer-0").read_bytes() == before


def test_a_checkpoint_that_the_journal_does_not_know_does_not_count(tmp_path):
    recipe = load_recipe("dimat-digits", SMALL)
    directory, _ = execute(recipe, "sim", Options(out=tmp_path / "run"))
    journal = directory.journal_file("peer-0")
    lines = journal.read_text().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if '"event":"round"' in line)
    journal.write_text("".join(lines[:last]))
    assert common_round(directory, make_plan(recipe)) == 2


@pytest.mark.parametrize("option", [{"restarts": 1}, {"port": 7000}])
def test_what_only_processes_have_is_refused_in_the_simulator(tmp_path, option):
    with pytest.raises(UserError, match="--on sim"):
        execute(load_recipe("dimat-digits", SMALL), "sim", Options(out=tmp_path / "run", **option))


def test_resuming_needs_a_folder(tmp_path):
    with pytest.raises(RunDirectoryError, match="--out"):
        open_directory(load_recipe("dimat-digits", SMALL), "sim", Options(resume=True))
