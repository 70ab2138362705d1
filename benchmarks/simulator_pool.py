"""What processes that train are worth to the simulator: the same run with one, and with several of them.

    python -m benchmarks.simulator_pool [--workers 2] [--rounds 4] [--json FILE]

GN-LeNet on CIFAR-10, once with peers that all train in every round (D-PSGD on a ring), once with a sample of five
(MoDeST). Seconds are of the wall, from the first peer's start to the last one's end; what it takes until then, with
torch and images read in every process, stands beside it. Every run is measured in a process of its own, one after the
other, so what else the machine does counts: the cores that others kept busy right before each are shown. It counts less
in the processor time of the busiest process of a run: the ratio of those is what several processes are worth where each
has a core to itself and never waits. Fails where a file of the runs differs by a byte. The images lie under
$DECENTRAL_DATA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.dimat_accuracy import no_data
from benchmarks.measure import busy, descendants

SHARED = ("data.subset=4000", "data.verify=false", "evaluation={every: 100, samples: 500}", "checkpoint.every=100")
RUNS: Mapping[str, tuple[str, ...]] = {
    "all of 8 peers train": ("peers=8", "algorithm=dpsgd", "topology=ring", *SHARED),
    "5 of 20 peers train": ("peers=20", "sampling.size=5", *SHARED),
}


def measured(name: str, rounds: int, workers: int) -> dict[str, Any]:
    """A run in this process and its workers, to its last file."""
    from decentral.launch.engine import Options, execute
    from decentral.run.recipe import load_recipe

    begun: list[float] = []
    before: dict[int, float] = {}
    used: dict[int, float] = {}

    def observe(event: Mapping[str, Any]) -> None:
        if event["event"] == "started" and not begun:
            begun.append(time.monotonic())
            before.update(processor_time())
        elif event["event"] == "finished":
            used.update(processor_time())

    disturbed, started = busy(), time.monotonic()
    recipe = load_recipe("modest-cifar10", (*RUNS[name], f"rounds={rounds}"))
    with tempfile.TemporaryDirectory() as folder:
        options = Options(out=Path(folder) / "run", workers=workers, observe=observe)
        directory, summary = execute(recipe, "sim", options)
        ended = time.monotonic()
        digest = digest_of(directory.path)
    return {
        "workers": workers,
        "startup": begun[0] - started,
        "run": ended - begun[0],
        "busiest": max(seconds - before.get(process, 0.0) for process, seconds in used.items()),
        "busy": disturbed,
        "accuracy": summary["accuracy"]["mean"],
        "digest": digest,
    }


def processor_time() -> dict[int, float]:
    """Seconds of this process and those below it, by their number. Linux."""
    found = {}
    for process in [os.getpid(), *descendants()]:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        found[process] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return found


def digest_of(run: Path) -> str:
    """Of all journals and checkpoints."""
    digest = hashlib.sha256()
    for file in sorted([*run.rglob("*.jsonl"), *run.rglob("*.safetensors")]):
        digest.update(str(file.relative_to(run)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def apart(name: str, rounds: int, workers: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.simulator_pool", "--run", name, "--rounds", str(rounds)]
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {workers} workers:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4, help="of those in which all train; five times as many samples")
    parser.add_argument("--run", choices=sorted(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measured(arguments.run, arguments.rounds, arguments.workers)))
        return 0
    if (missing := no_data("cifar10")) is not None:
        print(missing)
        return 0
    rows: dict[str, list[dict[str, Any]]] = {}
    heads = f"{'start, s':>10}{'run, s':>9}{'faster':>8}{'busiest, s':>12}{'faster':>8}{'others busy':>13}"
    print(f"{'':24}{'workers':>8}{heads}  same bytes")
    for number, name in enumerate(RUNS):
        rounds = arguments.rounds * (5 if number else 1)
        one, several = rows[name] = [apart(name, rounds, workers) for workers in (1, arguments.workers)]
        for found in (one, several):
            wall = f"{found['startup']:>10.1f}{found['run']:>9.1f}{one['run'] / found['run']:>8.2f}"
            processor = f"{found['busiest']:>12.1f}{one['busiest'] / found['busiest']:>8.2f}{found['busy']:>13.1f}"
            same = "yes" if found["digest"] == one["digest"] else "NO"
            print(f"{name:24}{found['workers']:>8}{wall}{processor}  {same}", flush=True)
    differing = [name for name, (one, several) in rows.items() if one["digest"] != several["digest"]]
    if arguments.json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        arguments.json.write_text(json.dumps({"runs": rows, "machine": machine}, indent=2) + "\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
