"""How long until N peers are up: keys made, certificates issued, models built, everybody greeted over mutual TLS.

    python -m benchmarks.startup [--peers 5 20] [--repeat 3] [--json FILE]

Seconds from starting the command to the moment when the last peer begins to train, beside the floor: one Python process
that does nothing but import torch and grpc.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUIRED = {5: 8.0, 20: 20.0}
"""Seconds, on two cores."""


def seconds_of(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def startup(peers: int) -> float:
    """From the start of `decentral run` to its last `started` event."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-P", "-m", "decentral", "run", "dimat-digits", "--out", str(run), "--json"]
        command += ["--set", f"peers={peers}", "--set", "rounds=1"]
        began = time.time()
        seconds_of(command)
        epoch: float = json.loads((run / "cluster.json").read_bytes())["epoch"]
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        started: list[float] = [event["t"] for event in events if event["event"] == "started"]
        assert len(started) == peers
        return epoch + max(started) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, nargs="+", default=list(REQUIRED))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    repeats = range(arguments.repeat)
    floor = statistics.median(seconds_of([sys.executable, "-c", "import torch, grpc.aio"]) for _ in repeats)
    print(f"{'floor: one process imports torch and grpc':<44} {floor:6.2f} s")
    figures: dict[str, float] = {"floor": floor}
    for peers in arguments.peers:
        measured = statistics.median(startup(peers) for _ in repeats)
        figures[str(peers)] = measured
        required = f"   at most {REQUIRED[peers]:g} s required" if peers in REQUIRED else ""
        print(f"{f'{peers} peers':<44} {measured:6.2f} s   {measured / floor:4.1f} x the floor{required}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
