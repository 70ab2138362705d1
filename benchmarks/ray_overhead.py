"""What Ray adds to a round: a recipe's peers as processes of this machine, and as actors of a Ray cluster of three.

    python -m benchmarks.ray_overhead [--recipe NAME] [--set KEY=VALUE] [--machines 3] [--repeat 3] [--json FILE]

The machines are emulated on this one by Ray's own utility, so that both worlds have the same cores, and Ray's processes
take their share of them. Both take turns, so that a machine whose speed drifts is as unfair to one as to the other.
Seconds a round is the median of the times between the ends of successive rounds, a round ending when the last peer's
does; the whole is what `decentral run` takes, imports and Ray's placing among it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import busy
from benchmarks.round_cost import QUIET, seconds_per_round

ALLOWED = 0.10
"""Of a round on local processes, that Ray may add."""
CORES, MEMORY = 8, 100 << 20
"""What each machine says it has: cores, and bytes for objects."""
WORLDS = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Run:
    """One run to its end; `digest` of every peer's parameters."""

    world: str
    round: float
    whole: float
    accuracy: float
    digest: str


def run(world: str, recipe: str, overrides: list[str], address: str, folder: Path) -> Run:
    """`decentral run`, as a user types it."""
    where = ["--on", world, *(["--address", address] if world == "ray" else [])]
    said = [part for override in overrides for part in ("--set", override)]
    if (cores := busy()) > QUIET:
        print(f"warning: {cores:.1f} cores are busy with something else", file=sys.stderr)
    began = time.monotonic()
    command = [sys.executable, "-P", "-m", "decentral", "run", recipe, *where, *said, "--out", str(folder), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    whole = time.monotonic() - began
    summary = json.loads(done.stdout)
    return Run(world, seconds_per_round(folder / "events.jsonl"), whole, summary["accuracy"]["mean"], digest(folder))


def digest(folder: Path) -> str:
    """Of all peers' tensors; the metadata beside them tells when they were written."""
    import hashlib

    from safetensors.torch import load_file, save

    files = sorted((folder / "checkpoints").glob("peer-*.safetensors"))
    return hashlib.sha256(b"".join(save(load_file(file)) for file in files)).hexdigest()


def table(recipe: str, runs: list[Run]) -> str:
    lines = [f"{recipe:18}{'s a round':>11}{'spread':>16}{'whole, s':>10}{'accuracy':>10}"]
    for world in WORLDS:
        mine = [one for one in runs if one.world == world]
        times = [one.round for one in mine]
        lines.append(
            f"{world:18}{statistics.median(times):>11.4f}{f'{min(times):.4f}-{max(times):.4f}':>16}"
            f"{statistics.median(one.whole for one in mine):>10.1f}{mine[0].accuracy:>10.4f}"
        )
    return "\n".join([*lines, f"{'added':18}{added(runs):>+11.1%}{'':16}required of it: at most {ALLOWED:.0%}"])


def added(runs: list[Run]) -> float:
    """Median over the turns of what Ray's round took beyond the local one of the same turn."""
    local, ray = ([one.round for one in runs if one.world == world] for world in WORLDS)
    return statistics.median(there / here - 1 for here, there in zip(local, ray, strict=True))


def main() -> int:
    """Zero if no more is added than is allowed."""
    parser = argparse.ArgumentParser(description="What Ray adds to a round.")
    parser.add_argument("--recipe", default="dimat-digits")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--machines", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3, help="turns of both worlds")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster, runs = Cluster(), list[Run]()
    try:
        cluster.add_node(num_cpus=0, object_store_memory=MEMORY, include_dashboard=False)
        for _ in range(arguments.machines):
            cluster.add_node(num_cpus=CORES, object_store_memory=MEMORY)
        with tempfile.TemporaryDirectory(prefix="decentral-ray-overhead-") as folder:
            for turn in range(arguments.repeat):
                for world in WORLDS:
                    out = Path(folder) / f"{world}-{turn}"
                    runs.append(run(world, arguments.recipe, arguments.overrides, cluster.address, out))
                    print(f"{world:6}{runs[-1].round:.4f} s a round, {runs[-1].whole:.1f} s", file=sys.stderr)
    finally:
        cluster.shutdown()
    print(table(arguments.recipe, runs))
    if arguments.json is not None:
        figures = {"recipe": arguments.recipe, "overrides": arguments.overrides, "added": added(runs)}
        arguments.json.write_text(json.dumps({**figures, "runs": [asdict(one) for one in runs]}, indent=2))
    same = len({one.digest for one in runs}) == 1
    print("the same parameters in all runs" if same else "parameters differ between runs")
    return 0 if added(runs) <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
