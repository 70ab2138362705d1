"""What a pipeline of stages gets done: batches a second through three processes, beside the slowest stage alone.

    python -m benchmarks.serving_pipeline [--batches 60] [--batch 32] [--json FILE]

ResNet-20 for images of 32x32, cut into three stages of about equal cost, one replica of each and no quorum: what is
measured is whether stages work at the same time, and what the client's protocol costs beside them. The floor is
`Stage.run` in a process that does nothing else, with one thread: the slowest of the three bounds the pipeline where
there is a core for each stage and one for the client. Where there are fewer, all of them share these; the last figure
says what share of that smaller bound is reached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import busy
from decentral.models.stages import Stage
from decentral.serving.client import Client
from decentral.serving.stages.model import load_stages
from tests.serving.soak import Standing, standing, untrained

STAGES = 3
SHAPE = (3, 32, 32)
ALONE = {"replicas": 1, "quorum": 1, "faulty": 0}
WANTED = 0.9
REPEAT = 5
WARM, MOST_WARM = 30, 600
"""Batches before it counts: in a row, until no replica is a newcomer. Testing one is computed in float64."""


def alone(stages: list[Stage], batch: Tensor) -> list[float]:
    """Seconds of each stage, the median of a few runs."""
    tensors, seconds = {stages[0].inputs[0].name: batch}, []
    with torch.no_grad():
        for stage in stages:
            taken = []
            for _ in range(REPEAT):
                began = time.perf_counter()
                outputs = stage.run(tensors)
                taken.append(time.perf_counter() - began)
            seconds.append(statistics.median(taken))
            tensors = outputs
    return seconds


async def through(up: Standing, batches: list[Tensor]) -> tuple[float, float]:
    """Batches a second of a client that keeps all stages busy, and seconds of its own processor for each."""
    async with Client.connect(up.path) as client:
        warm: list[bool] = []
        while any(client.reputations.of(peer.id).newcomer for peer in client.anchors.peers) and len(warm) < MOST_WARM:
            warming = (batches[number % len(batches)] for number in range(WARM))
            warm += [prediction.verdict.valid async for prediction in client.stream(warming)]
        began, own = time.perf_counter(), time.process_time()
        answers = [prediction.verdict.valid async for prediction in client.stream(batches)]
        taken, own = time.perf_counter() - began, time.process_time() - own
    assert all((*warm, *answers))
    return len(answers) / taken, own / len(answers)


def measure(folder: Path, count: int, size: int) -> dict[str, Any]:
    model = untrained(folder, "resnet20", SHAPE)
    batches = list(torch.rand(count, size, *SHAPE))
    with standing(folder, replicas=1, stages=STAGES, model=model, policy=ALONE) as up:
        stages = [stage for _, stage in sorted(load_stages(up.directory.stages).items())]
        before = alone(stages, batches[0])
        pipeline, own = asyncio.run(through(up, batches))
        after = alone(stages, batches[0])
    seconds = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
    cores = len(os.sched_getaffinity(0))
    bound = min(1 / max(seconds), cores / sum(seconds))
    return {
        "batch": size,
        "stages": [1e3 * each for each in seconds],
        "client": 1e3 * own,
        "pipeline": pipeline,
        "slowest": 1 / max(seconds),
        "bound": bound,
        "cores": cores,
        "ratio": pipeline * max(seconds),
        "of the bound": pipeline / bound,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32, help="samples in one")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disturbed = busy()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.batches, arguments.batch)
    result["cores_busy_before"] = disturbed
    stages = ", ".join(f"{each:.1f}" for each in result["stages"])
    print(f"batches of {result['batch']}; stages alone, in ms: {stages}; {disturbed:.1f} cores busy before")
    print(f"the pipeline: {result['pipeline']:.1f} batches a second; its slowest stage alone: {result['slowest']:.1f}")
    print(f"the client's processor: {result['client']:.1f} ms for a batch")
    print(f"ratio {result['ratio']:.2f}; wanted, with a core for each: at least {WANTED}: {result['ratio'] >= WANTED}")
    print(
        f"client and stages share {result['cores']} cores, which do {result['bound']:.1f} at most: "
        f"{result['of the bound']:.2f} of that"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
