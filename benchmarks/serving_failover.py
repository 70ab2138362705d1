"""A standing model under stress: how late answers are when replicas are killed, and how many come under load.

    python -m benchmarks.serving_failover [--failover] [--load] [--requests 1000] [--seconds 60] [--json FILE]

Three stages by three replicas each, a process for every one, over mutual TLS; every answer is compared with the
model's. --failover: a stream of requests, six under way, while one replica of each stage is killed; the time of an
answer is that of its whole `predict`. Beside it stands the same stream with nobody killed. --load: 64 clients that ask
one request after another, one of which has 100 under way, more than a session may have; sent is answered or refused.
All 64 are in one process, whose event loop hears a message of each session in a turn: whoever has many waits longer.
Neither given: both. The client and all nine replicas share the cores there are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import busy
from tests.serving.soak import Standing, Stream, crowd, inputs, standing, through_deaths

WANTED = 1.0
"""Seconds, of the 99th percentile while replicas are killed."""


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def told(found: Stream) -> dict[str, Any]:
    return {
        "answers": len(found.outputs),
        "a second": len(found.outputs) / found.wall,
        "median": statistics.median(found.seconds),
        "p99": percentile(found.seconds, 0.99),
        "latest": max(found.seconds),
        "silent": len(found.noticed),
    }


def failover(up: Standing, requests: int) -> dict[str, Any]:
    """Seconds of an answer. Raises AssertionError for a wrong one."""
    batches = inputs(requests)
    figures = {}
    for name, killing in (("nobody is killed", False), ("one of each stage is killed", True)):
        found = asyncio.run(through_deaths(up, batches, killing=killing))
        right = up.expected(torch.cat(batches))
        torch.testing.assert_close(torch.cat(list(found.outputs)), right, rtol=0, atol=1e-5)
        figures[name] = row = told(found)
        print(
            f"{name:<28} median {row['median']:.3f} s, p99 {row['p99']:.3f} s, latest {row['latest']:.3f} s, "
            f"{row['a second']:.1f} answers a second, {row['silent']} replicas silent"
        )
    late = figures["one of each stage is killed"]["p99"]
    print(f"wanted: p99 of at most {WANTED:g} s while replicas are killed: {late <= WANTED}")
    return figures


def load(up: Standing, seconds: float) -> dict[str, Any]:
    found = asyncio.run(crowd(up, seconds=seconds))
    assert not found.wrong
    assert found.sent == found.answered + sum(found.refused.values())
    memory = max(found.memory[-1].values())
    figures: dict[str, Any] = {
        "sent": found.sent,
        "answered": found.answered,
        "refused": dict(found.refused),
        "busy": found.busy,
        "a second": found.answered / found.wall,
        "median": statistics.median(found.seconds),
        "p99": percentile(found.seconds, 0.99),
        "greedy": {
            "answered": len(found.greedy),
            "median": statistics.median(found.greedy),
            "p99": percentile(found.greedy, 0.99),
        },
        "growth": found.growth(),
        "memory": memory,
    }
    greedy = figures["greedy"]
    print(
        f"64 clients for {seconds:g} s: {found.sent} sent = {found.answered} answered + {sum(found.refused.values())} "
        f"refused; {figures['a second']:.1f} answers a second\n"
        f"63 that ask one after another: median {figures['median']:.2f} s, p99 {figures['p99']:.2f} s; the one that "
        f"has 100 under way: median {greedy['median']:.2f} s, p99 {greedy['p99']:.2f} s\n"
        f"{found.busy} times a replica was busy and asked again; a replica has {memory >> 20} MiB, "
        f"{found.growth() / 2**20:.1f} MiB more than after the first third"
    )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failover", action="store_true", help="replicas are killed")
    parser.add_argument("--load", action="store_true", help="many clients")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    both = arguments.failover == arguments.load
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "cores_busy_before": busy()}
    print(f"{result['cores']} cores, {result['cores_busy_before']:.1f} of them busy before\n")
    with tempfile.TemporaryDirectory() as folder, standing(Path(folder)) as up:
        if both or arguments.load:
            result["load"] = load(up, arguments.seconds)
        if both or arguments.failover:
            result["failover"] = failover(up, arguments.requests)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
