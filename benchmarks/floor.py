"""The floor of every framework with five processes: plain PyTorch, each trains its part, a barrier ends the round.

No model is exchanged, so a framework's seconds a round minus these are what its exchange costs; accuracy means nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.workload import PEERS, WORKLOADS, epoch, perceptron, shard


def peer(index: int, name: str, events: Path, barrier: Barrier) -> None:
    """One process: every round as a line in `events`."""
    import torch

    torch.set_num_threads(1)
    model, (images, labels) = perceptron(WORKLOADS[name].widths), shard(index)
    for round in range(1, WORKLOADS[name].rounds + 1):
        epoch(model, images, labels, round=round, peer=index)
        barrier.wait(timeout=120)
        with events.open("a") as file:
            file.write(json.dumps({"event": "round", "round": round, "peer": index, "t": time.time()}) + "\n")


def main(name: str, events: Path) -> int:
    """Zero if all five came to the end."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(PEERS)
    processes = [spawn.Process(target=peer, args=(index, name, events, barrier)) for index in range(PEERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
