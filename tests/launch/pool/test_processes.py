"""Workers are processes of this run: they answer, they end with it, and one that dies is told of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decentral.errors import DecentralError
from decentral.launch.pool.packing import pack, unpack
from decentral.launch.pool.processes import processes
from decentral.launch.pool.remote import RemoteLearner, Worker
from decentral.run.recipe import load_recipe

pytestmark = pytest.mark.slow

RECIPE = load_recipe(
    "dimat-digits", ("peers=4", "model={name: mlp, hidden: [8]}", "data.subset=120", "data.partition=iid")
)


def children(process: int) -> set[int]:
    """Of a process, and theirs."""
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | children(child)
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(workers: set[int], seconds: float = 10.0) -> bool:
    ends = time.monotonic() + seconds
    while any(alive(worker) for worker in workers) and time.monotonic() < ends:
        time.sleep(0.05)
    return not any(alive(worker) for worker in workers)


def test_each_worker_has_learners_of_its_own_and_all_end_with_the_block():
    before = children(os.getpid())
    with processes(2) as ways:
        workers = [Worker(way) for way in ways]
        for worker in workers:
            worker.open(RECIPE)
        assert RemoteLearner(workers[0], 0).samples == RemoteLearner(workers[1], 1).samples == 30
        with pytest.raises(RuntimeError, match="KeyError"):
            workers[1].ask("view", 0)
        started = children(os.getpid()) - before
        assert len(started) == 3
    assert gone(started)


def test_a_worker_that_dies_is_named_with_what_ended_it_and_the_others_go_on():
    before = children(os.getpid())
    with processes(2) as ways:
        assert unpack(ways[0].ask(pack(["view", 0, {}])))["error"]
        workers = sorted(children(os.getpid()) - before)[1:]
        os.kill(workers[0], signal.SIGKILL)
        dead, living = ways
        for _ in range(2):
            with pytest.raises(DecentralError, match=r"(?s)worker 0 .* --resume.*SIGKILL"):
                dead.ask(pack(["view", 0, {}]))
        assert unpack(living.ask(pack(["view", 0, {}])))["error"]


RUN = """
import sys
from decentral.launch.pool.processes import processes
from decentral.launch.pool.packing import pack
with processes(2) as ways:
    ways[1].ask(pack(["view", 0, {}]))
    print("there", flush=True)
    sys.stdin.read()
"""


def test_workers_end_with_who_started_them_however_that_ends():
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "there\n"
        workers = children(program.pid)
        program.kill()
    assert len(workers) == 3 and gone(workers)
