"""However many workers train, the run is the same to the last byte; and it ends when one of them does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from decentral.errors import DecentralError, UserError
from decentral.launch.engine import Options, execute
from decentral.launch.pool.pool import Pool, count
from decentral.run.recipe import load_recipe
from tests.launch.pool.test_processes import alive, children, gone
from tests.launch.test_simulated import NEEDED, digests, simulate

LAUNCHERS = frozenset({"pid", ".lock"})
CHURN = "simulation.churn={crash_per_minute: 40, after: 0.5, until: 0.3, return_after: 1.5}"


def test_no_more_workers_are_started_than_are_of_use():
    recipe = load_recipe("dimat-digits", ("peers=4",))
    assert [count(recipe, asked) for asked in (1, 3, 9)] == [1, 3, 4]
    assert count(recipe, 0) == min(4, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("overrides", [("learner=null", "algorithm=dpsgd"), ("algorithm=split", *NEEDED["split"])])
def test_learners_that_cannot_be_elsewhere_or_do_nothing_stay_here(overrides):
    assert count(load_recipe("dimat-digits", overrides), 4) == 1


def test_alone_a_pool_is_one_thread_of_this_process():
    before = children(os.getpid())
    with Pool(load_recipe("dimat-digits", ("peers=3", "data.partition=iid", "data.subset=60"))) as pool:
        learners = [pool.assemble(index).result() for index in range(3)]
        assert pool.thread(0) is pool.thread(1) is pool.thread(2)
        assert children(os.getpid()) == before
    assert [learner.samples for learner in learners] == [20, 20, 20]
    with pytest.raises(RuntimeError):
        pool.assemble(0)


def test_workers_are_for_the_simulator(tmp_path):
    with pytest.raises(UserError, match="--workers"):
        execute(load_recipe("dimat-digits"), "local", Options(out=tmp_path / "run", workers=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model={name: mlp, hidden: [16], batch_norm: true}", "algorithm=fedavg", "averaging.batchnorm=reestimate"),
        ("algorithm=dpsgd", "training.fresh_optimizer=false", "exchange.compression={name: top-k, share: 0.1}"),
        ("algorithm=dpsgd", "attack={name: alie, peers: [2], from_round: 1}", "topology=full"),
        ("algorithm=sgp", "topology=exponential"),
        ("algorithm=modest", "averaging.outer=nesterov", "sampling.size=3"),
        ("algorithm=experts", *NEEDED["experts"]),
    ],
    ids=" ".join,
)
def test_who_trains_where_changes_no_byte(tmp_path, overrides):
    alone, pooled = (
        simulate(tmp_path / name, *overrides, workers=workers) for name, workers in (("alone", 1), ("pooled", 3))
    )
    assert digests(alone, without=LAUNCHERS) == digests(pooled, without=LAUNCHERS)
    assert len(digests(alone)) > 15


@pytest.mark.slow
def test_peers_that_come_and_go_change_nothing_about_that(tmp_path):
    recipe = load_recipe("modest-digits", ("rounds=12", "peers=9", "sampling.size=4", CHURN))
    for name, workers in (("alone", 1), ("pooled", 2)):
        _, summary = execute(recipe, "sim", Options(out=tmp_path / name, workers=workers))
        assert summary["crashed"] and summary["rejoined"]
    assert digests(tmp_path / "alone", without=LAUNCHERS) == digests(tmp_path / "pooled", without=LAUNCHERS)


class Stop(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_lost_a_worker_says_so_and_goes_on_from_its_checkpoints_to_the_same_end(tmp_path):
    before = children(os.getpid())

    def killing(event: dict[str, object]) -> None:
        if event["event"] == "round" and event["round"] == 2 and event["peer"] == 3:
            os.kill(max(children(os.getpid()) - before), signal.SIGKILL)

    whole = simulate(tmp_path / "whole")
    with pytest.raises(DecentralError, match=r"(?s)worker 1 .*--resume.*SIGKILL"):
        simulate(tmp_path / "halved", workers=2, observe=killing)
    assert gone(children(os.getpid()) - before)
    halved = simulate(tmp_path / "halved", workers=2, resume=True)
    history = frozenset({"events.jsonl", "report.html", "counter"})  # they tell of the interruption
    assert digests(whole, without=LAUNCHERS | history) == digests(halved, without=LAUNCHERS | history)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_who_interrupts_a_run_ends_its_workers(tmp_path, number):
    command = ["run", "dimat-digits", "--on", "sim", "--workers", "2", "--set", "rounds=100000", "--out", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "decentral", *command], stderr=subprocess.PIPE, text=True) as program:
        journal = tmp_path / "nodes" / "peer-0" / "events.jsonl"
        while not (journal.exists() and '"round"' in journal.read_text()):
            assert program.poll() is None
            time.sleep(0.1)
        workers = children(program.pid)
        program.send_signal(number)
        said = program.stderr.read()
    assert len(workers) == 3 and gone(workers) and not any(map(alive, workers))
    assert "Traceback" not in said
    assert program.returncode == 130 and "--resume" in said
