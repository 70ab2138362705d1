"""How a node stands, as metrics of Ray: what its dashboard and its Prometheus endpoint show beside a machine's load."""

from __future__ import annotations

import math

from ray.util.metrics import Gauge

from decentral.run.journal import Event


class Gauges:
    """Of one node of a run."""

    def __init__(self, run: str, node: str) -> None:
        def gauge(name: str, words: str) -> Gauge:
            made = Gauge(f"decentral_{name}", words, ("run", "node"))
            made.set_default_tags({"run": run, "node": node})
            return made

        self._round = gauge("round", "The last round that the node has finished.")
        self._loss = gauge("loss", "The mean loss of its latest training.")
        self._accuracy = gauge("accuracy", "Of its latest evaluation, from 0 to 1.")
        self._bytes = gauge("sent_bytes", "All that it has sent, of all kinds.")

    def take(self, event: Event) -> None:
        """One event of the node's journal."""
        match event["event"]:
            case "round":
                self._round.set(event["round"])
                self._bytes.set(event["bytes"]["total"])
            case "trained" if event["loss"] is not None and math.isfinite(event["loss"]):
                self._loss.set(event["loss"])
            case "evaluated" if event["accuracy"] is not None:
                self._accuracy.set(event["accuracy"])
