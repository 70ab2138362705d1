"""hivemind on W1 and W2: five processes, each with a DHT node and an averager, one all-reduce of parameters a round.

Runs in an environment that has hivemind and torch; decentral is not needed there. Settings are its own defaults where
it has any (`min_matchmaking_time` 5 s); connections are encrypted by libp2p.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.workload import PEERS, WORKLOADS, epoch, part, perceptron, score, shard


def note(events: Path, **fields: object) -> None:
    with events.open("a") as file:
        file.write(json.dumps({**fields, "t": time.time()}) + "\n")


def peer(index: int, name: str, events: Path, address: Any, arrived: Barrier) -> None:
    """One process; the first gives its address to the others."""
    import hivemind
    import torch

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # hivemind's own processes cannot be spawned
    known = [] if index == 0 else address.get(timeout=60)
    dht = hivemind.DHT(initial_peers=known, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    if index == 0:
        visible = [str(place) for place in dht.get_visible_maddrs()]
        for _ in range(PEERS - 1):
            address.put(visible)
    model, (images, labels) = perceptron(WORKLOADS[name].widths), shard(index)
    parameters = list(model.parameters())
    averager = hivemind.DecentralizedAverager(
        [parameter.detach().clone() for parameter in parameters],
        dht,
        prefix="workload",
        target_group_size=PEERS,
        min_group_size=PEERS,
        min_matchmaking_time=5.0,
        request_timeout=1.0,
        start=True,
    )
    for round in range(1, WORKLOADS[name].rounds + 1):
        epoch(model, images, labels, round=round, peer=index)
        with torch.no_grad(), averager.get_tensors() as shared:
            for tensor, parameter in zip(shared, parameters, strict=True):
                tensor.copy_(parameter)
        averager.step(weight=float(len(labels)), timeout=120)
        with torch.no_grad(), averager.get_tensors() as shared:
            for tensor, parameter in zip(shared, parameters, strict=True):
                parameter.copy_(tensor)
        note(events, event="round", round=round, peer=index)
    note(events, event="final", accuracy=score(model, *part("test"))[1])
    arrived.wait(timeout=120)  # nobody leaves while another still needs its DHT node
    averager.shutdown()
    dht.shutdown()


def main(name: str, events: Path) -> int:
    """Zero if all five came to the end."""
    spawn = multiprocessing.get_context("spawn")
    address, arrived = spawn.Queue(), spawn.Barrier(PEERS)
    processes = [spawn.Process(target=peer, args=(index, name, events, address, arrived)) for index in range(PEERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
