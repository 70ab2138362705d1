"""Flower on W1 and W2: its simulation on Ray in the form that costs least, FedAvg over all five nodes.

Runs in an environment that has flwr[simulation] and torch; decentral is not needed there. No TLS, no sockets between
the nodes and the server: what it shows is the price of a round in a framework that is made for comfort.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.workload import PEERS, WORKLOADS, epoch, part, perceptron, score, shard


def note(events: Path, **fields: object) -> None:
    with events.open("a") as file:
        file.write(json.dumps({**fields, "t": time.time()}) + "\n")


def client(name: str) -> Any:
    """What a node does: one local epoch from the parameters that it is sent."""
    import torch
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        peer, round = int(context.node_config["partition-id"]), int(message.content["config"]["server-round"])
        model, (images, labels) = perceptron(WORKLOADS[name].widths), shard(peer)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        loss = epoch(model, images, labels, round=round, peer=peer)
        metrics = MetricRecord({"loss": loss, "num-examples": len(labels)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    return app


def server(name: str, events: Path) -> Any:
    """Averages, and evaluates after every round."""
    import torch
    from flwr.app import ArrayRecord, Context, MetricRecord
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.set_num_threads(1)
        model, test = perceptron(WORKLOADS[name].widths), part("test")
        last = WORKLOADS[name].rounds

        def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if round == 0:
                return None
            model.load_state_dict(arrays.to_torch_state_dict())
            _, accuracy = score(model, *test)
            note(events, event="round", round=round)
            if round == last:
                note(events, event="final", accuracy=accuracy)
            return MetricRecord({"accuracy": accuracy})

        everybody = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=PEERS, min_available_nodes=PEERS)
        everybody.start(grid, ArrayRecord(model.state_dict()), num_rounds=last, evaluate_fn=evaluate)

    return app


if __name__ == "__main__":
    # Ray's workers import this folder's modules, and nobody is to be called home.
    os.environ |= {
        "PYTHONPATH": str(Path(__file__).resolve().parent),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    from flwr.simulation import run_simulation

    workload_name, events_file = sys.argv[1], Path(sys.argv[2]).resolve()
    run_simulation(
        server_app=server(workload_name, events_file),
        client_app=client(workload_name),
        num_supernodes=PEERS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
