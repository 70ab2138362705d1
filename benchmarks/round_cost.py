"""What a round costs: five processes under mutual TLS that average their models, beside the floor and the peers.

    python -m benchmarks.round_cost [--workload w1] [--peers DIR] [--repeat N] [--json FILE]

`--peers DIR` also measures what is installed in DIR/venv-flower and DIR/venv-hivemind. Seconds a round is the median of
the times between the ends of successive rounds, a round ending when the last peer holds the average: the first is not
in it, nor are the one evaluation and checkpoint at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Cost, Failed, busy, enter_private_network, measure
from benchmarks.workload import WORKLOADS, prepare

HERE = Path(__file__).resolve().parent

ACCURACY_TOLERANCE = 0.003
QUIET = 0.3
"""Cores that may be busy with something else before a run; with more the figures are no good."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """At most: seconds a round, seconds for the whole command, gigabytes of memory, megabytes on loopback."""

    round: float
    wall: float | None
    memory: float
    loopback: float | None


REQUIRED = {
    "w1": Requirement(round=0.10, wall=12.0, memory=1.5, loopback=None),
    "w2": Requirement(round=3.5, wall=None, memory=3.5, loopback=1700.0),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One contestant on one workload."""

    name: str
    workload: str
    round: float
    accuracy: float | None
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "workload": self.workload,
            "seconds_per_round": self.round,
            "wall_seconds": self.cost.wall,
            "memory_bytes": self.cost.memory,
            "processes": self.cost.processes,
            "loopback_bytes": self.cost.loopback,
            "accuracy": self.accuracy,
        }


def seconds_per_round(events: Path, ending: str = "round") -> float:
    """Median gap between the ends of successive rounds, which the last `ending` of a round is, in a file of events."""
    ends: dict[int, float] = {}
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == ending:
            ends[event["round"]] = max(ends.get(event["round"], 0.0), event["t"])
    times = [ends[round] for round in sorted(ends)]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def accuracy_in(events: Path) -> float | None:
    """Mean over the peers that reported one at the end."""
    found = [json.loads(line) for line in events.read_text().splitlines()]
    finals = [event["accuracy"] for event in found if event["event"] == "final"]
    return statistics.mean(finals) if finals else None


def run_ours(workload: str, folder: Path) -> Result:
    """`decentral run`, as a user types it."""
    out = folder / "run"
    command = [sys.executable, "-m", "decentral", "run", str(HERE / f"{workload}.yaml")]
    cost = measure([*command, "--plugin", str(HERE / "plugin.py"), "--out", str(out)], folder / "log.txt")
    accuracy = json.loads((out / "summary.json").read_text())["accuracy"]["mean"]
    return Result("decentral", workload, seconds_per_round(out / "events.jsonl", ending="exchanged"), accuracy, cost)


def run_script(name: str, python: Path, script: str) -> Callable[[str, Path], Result]:
    """A contestant that writes its own events."""

    def run(workload: str, folder: Path) -> Result:
        events = folder / "events.jsonl"
        events.touch()
        environment = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parent),
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        }
        cost = measure([str(python), str(HERE / script), workload, str(events)], folder / "log.txt", environment)
        return Result(name, workload, seconds_per_round(events), accuracy_in(events), cost)

    return run


def contestants(peers: Path | None) -> dict[str, Callable[[str, Path], Result]]:
    """The floor and ours always; Flower and hivemind where they are installed."""
    found = {"floor": run_script("floor", Path(sys.executable), "floor.py"), "decentral": run_ours}
    for name in ("flower", "hivemind"):
        python = (peers or Path()) / f"venv-{name}" / "bin" / "python"
        if peers is not None and python.exists():
            found[name] = run_script(name, python.absolute(), f"peer_{name}.py")
        elif peers is not None:
            print(f"{name}: not measured, there is no {python}", file=sys.stderr)
    return found


def in_new_folder(run: Callable[[str, Path], Result], workload: str) -> Result:
    """Whatever a contestant writes, no other finds it."""
    if (cores := busy()) > QUIET:
        print(f"warning: {cores:.1f} cores are busy with something else", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="decentral-round-cost-") as folder:
        return run(workload, Path(folder))


def middle(results: list[Result]) -> Result:
    """The repetition with the median seconds a round."""
    return sorted(results, key=lambda result: result.round)[len(results) // 2]


def table(results: list[Result]) -> str:
    """One line a contestant, and what is required below."""
    head = f"{'':20}{'s a round':>11}{'whole, s':>10}{'memory, GB':>12}{'loopback, MB':>14}{'accuracy':>10}"
    lines = []
    for workload in dict.fromkeys(result.workload for result in results):
        lines += [workload.upper(), head]
        for result in (r for r in results if r.workload == workload):
            moved = "-" if result.cost.loopback is None else f"{result.cost.loopback / 1e6:,.1f}"
            accuracy = "-" if result.accuracy is None else f"{result.accuracy:.4f}"
            lines.append(
                f"{result.name:20}{result.round:>11.3f}{result.cost.wall:>10.1f}{result.cost.memory / 1e9:>12.2f}"
                f"{moved:>14}{accuracy:>10}"
            )
        required = REQUIRED[workload]
        lines.append(
            f"{'required of ours':20}{f'<= {required.round}':>11}{at_most(required.wall):>10}"
            f"{f'<= {required.memory}':>12}{at_most(required.loopback):>14}{WORKLOADS[workload].accuracy:>10}\n"
        )
    return "\n".join(lines)


def at_most(value: float | None) -> str:
    return "-" if value is None else f"<= {value:g}"


def misses(result: Result) -> list[str]:
    """What ours did not reach."""
    required, workload = REQUIRED[result.workload], WORKLOADS[result.workload]
    moved = None if result.cost.loopback is None else result.cost.loopback / 1e6
    figures = [
        ("seconds a round", result.round, required.round),
        ("seconds for the whole command", result.cost.wall, required.wall),
        ("GB of memory", result.cost.memory / 1e9, required.memory),
        ("MB on loopback", moved, required.loopback),
    ]
    missed = [
        f"{result.workload}: {value:.3f} {what}, at most {limit} required"
        for what, value, limit in figures
        if value is not None and limit is not None and value > limit
    ]
    if result.accuracy is None or abs(result.accuracy - workload.accuracy) > ACCURACY_TOLERANCE:
        missed.append(f"{result.workload}: accuracy {result.accuracy}, {workload.accuracy} required")
    return missed


def main() -> int:
    """Zero if ours reached what is required."""
    parser = argparse.ArgumentParser(description="What a round costs, beside the floor and the peers.")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), action="append", help="default: all")
    parser.add_argument("--only", action="append", help="measure these contestants alone: floor, decentral, ...")
    parser.add_argument("--peers", type=Path, help="a folder with venv-flower and venv-hivemind")
    parser.add_argument("--repeat", type=int, default=1, help="repetitions, of which the median counts")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    enter_private_network()
    prepare()
    results = []
    for workload in arguments.workload or sorted(WORKLOADS):
        for name, run in contestants(arguments.peers).items():
            if arguments.only and name not in arguments.only:
                continue
            try:
                results.append(middle([in_new_folder(run, workload) for _ in range(arguments.repeat)]))
            except Failed as failed:
                if name == "decentral":
                    raise
                print(f"{name} on {workload}: not measured. {failed}", file=sys.stderr)
    print(table(results))
    if any(result.cost.loopback is None for result in results):
        print(
            "Bytes on loopback need a private network namespace (root, or unprivileged user namespaces): not measured."
        )
    ours = [result for result in results if result.name == "decentral"]
    missed = [line for result in ours for line in misses(result)]
    if ours:
        print("\n".join(missed) or "Ours reached what is required.")
    if arguments.json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        report = {"results": [result.as_dict() for result in results], "missed": missed, "machine": machine}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
