"""What a run comes to: its events, folded into summary.json and metrics.csv.

In the simulator everything but `seconds` is a function of the recipe and of the installed versions.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from decentral.run.directory import RunDirectory, peer_name
from decentral.run.journal import Event, merge
from decentral.run.recipe import Recipe

KINDS = ("model", "control", "evidence", "total")
PHASES = {"train": "trained", "exchange": "exchanged", "merge": "merged", "evaluate": "evaluated"}
"""The phases of a round, and the event that ends each with its `seconds`."""
MOST_NAMED = 10
"""Attackers that a line for people names."""
PACKAGES = ("decentral", "torch", "numpy", "grpcio", "safetensors")


def summarise(recipe: Recipe, world: str, events: Sequence[Event], wall: float | None = None) -> dict[str, Any]:
    """The content of summary.json; `events` as `journal.merge` orders them.

    `wall`: seconds that the run took, where its own clock does not tell (the simulator's is virtual).

    Accuracy and loss are those of each peer's last evaluation, null for a peer that had none; their means and bounds
    are over the honest, those of peers that the recipe tells to attack, and of a router, stand apart. Bytes are sums
    over the peers; the seconds of a phase are the mean over the peers, so that they can be held against `wall`.
    `evaluation` and `matching` are what the recipe says of the images used; no number of test images means all of them.
    """
    last = last_evaluations(recipe, events)
    honest = [event for peer, event in enumerate(last) if event is not None and peer not in recipe.aside]
    accuracies = [event["accuracy"] for event in honest if event["accuracy"] is not None]
    losses = [event["loss"] for event in honest if event["loss"] is not None]
    per_peer = bytes_by_peer(recipe, events)
    return {
        "recipe": recipe.name,
        "hash": recipe.hash,
        "algorithm": recipe.algorithm,
        "world": world,
        "peers": recipe.peers,
        "rounds": max((event["round"] for event in events if event["event"] == "round"), default=0),
        "accuracy": {
            "mean": _mean(accuracies),
            "min": min(accuracies, default=None),
            "max": max(accuracies, default=None),
            "per_peer": [None if event is None else event["accuracy"] for event in last],
        },
        "loss": _mean(losses),
        "attack": _attack(recipe, last),
        **({} if recipe.router is None else {"router": _router(last[recipe.router])}),
        "bytes": {kind: sum(counts[kind] for counts in per_peer) for kind in KINDS},
        "seconds": _seconds(recipe, events, _latest(events) if wall is None else wall),
        "virtual_seconds": round(_latest(events), 6) if world == "sim" else None,
        "evaluation": {"samples": recipe.evaluation.samples},
        "matching": {
            "data": recipe.matching.data,
            "samples": recipe.matching.samples,
            "statistics": recipe.batchnorm,
            "repair": recipe.matching.repair if recipe.algorithm == "dimat" else False,
        },
        "crashed": _named(events, "crashed"),
        "rejoined": _named(events, "rejoined"),
        "left": _named(events, "left"),
        "joined": _named(events, "joined"),
        "versions": versions(),
        "seed": recipe.seed,
    }


def metrics_csv(events: Iterable[Event]) -> str:
    """One row per peer and evaluation: when, how well, after how much training loss and how many bytes sent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["round", "peer", "t", "accuracy", "loss", "training_loss"])
    training: dict[int, float | None] = {}
    rows = []
    for event in events:
        if event["event"] == "trained":
            training[event["peer"]] = event["loss"]
        elif event["event"] == "evaluated":
            peer = event["peer"]
            rows.append((event["round"], peer, event["t"], event["accuracy"], event["loss"], training.get(peer)))
    writer.writerows(["" if value is None else value for value in row] for row in sorted(rows, key=lambda row: row[:3]))
    return text.getvalue()


def write_summary(run: RunDirectory, wall: float | None = None) -> dict[str, Any]:
    """Merges the run's journals; writes events.jsonl, metrics.csv and, last, summary.json; returns the summary."""
    events = merge(run)
    summary = summarise(run.recipe, run.world, events, wall)
    run.write(run.metrics_file, metrics_csv(events).encode())
    run.write(run.summary_file, json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n")
    return summary


def versions() -> dict[str, str]:
    """Of what decides a result, without importing any of it."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def last_evaluations(recipe: Recipe, events: Iterable[Event]) -> list[Event | None]:
    """Each peer's last evaluation, by index; None for a peer that had none."""
    last = {event["peer"]: event for event in events if event["event"] == "evaluated"}
    return [last.get(peer) for peer in range(recipe.peers)]


def bytes_by_peer(recipe: Recipe, events: Iterable[Event]) -> list[dict[str, int]]:
    """What each peer sent, by kind and by index. Counts are cumulative, across restarts too: the last one holds."""
    sent = [dict.fromkeys(KINDS, 0) for _ in range(recipe.peers)]
    for event in events:
        if event["event"] in ("round", "finished"):
            sent[event["peer"]] = {kind: int(event["bytes"][kind]) for kind in KINDS}
    return sent


def phase_seconds(recipe: Recipe, events: Iterable[Event]) -> list[dict[str, float]]:
    """Seconds that each peer spent in each phase, by index."""
    spent: list[dict[str, list[float]]] = [defaultdict(list) for _ in range(recipe.peers)]
    ends = {**{event: phase for phase, event in PHASES.items()}, "abandoned": "train"}
    for event in events:
        if (phase := ends.get(event["event"])) is not None:
            spent[event["peer"]][phase].append(event["seconds"])
    return [{phase: math.fsum(peer[phase]) for phase in PHASES} for peer in spent]


def _seconds(recipe: Recipe, events: Sequence[Event], wall: float) -> dict[str, float]:
    per_peer = phase_seconds(recipe, events)
    phases = {phase: math.fsum(peer[phase] for peer in per_peer) / recipe.peers for phase in PHASES}
    seconds = {"wall": wall, **phases, "startup": _startup(events)}
    return {name: round(value, 6) for name, value in seconds.items()}


def _startup(events: Iterable[Event]) -> float:
    """From the launch until the last peer had started for the first time."""
    launched, started = 0.0, dict[int, float]()
    for event in events:
        if event["event"] == "launched":
            launched = event["t"]
        elif event["event"] == "started":
            started.setdefault(event["peer"], event["t"])
    return max(started.values(), default=launched) - launched


def attack_words(recipe: Recipe) -> str | None:
    """Who misbehaves, for people: that it is a simulation must be seen wherever its results are."""
    if recipe.attack is None:
        return None
    some = ", ".join(map(str, recipe.attackers[:MOST_NAMED]))
    more = f" and {len(recipe.attackers) - MOST_NAMED} more" if len(recipe.attackers) > MOST_NAMED else ""
    since = f" from round {recipe.attack.from_round} on" if recipe.attack.from_round > 1 else ""
    peers = "peers" if len(recipe.attackers) > 1 else "peer"
    return f"{recipe.attack.name} by {peers} {some}{more}{since} (told to by the recipe)"


def _attack(recipe: Recipe, last: Sequence[Event | None]) -> dict[str, Any] | None:
    """`accuracy`: the mean of the attackers' own models."""
    if recipe.attack is None:
        return None
    found = [event["accuracy"] for peer in recipe.attackers if (event := last[peer]) is not None]
    return {
        "name": recipe.attack.name,
        "peers": [peer_name(index) for index in recipe.attackers],
        "from_round": recipe.attack.from_round,
        "options": recipe.attack.options,
        "words": attack_words(recipe),
        "accuracy": _mean([accuracy for accuracy in found if accuracy is not None]),
    }


def _router(last: Event | None) -> dict[str, Any]:
    """Of an ensemble: share of noisy test images given to their cluster, and mean cross-entropy."""
    return {what: None if last is None else last[what] for what in ("accuracy", "loss")}


def _named(events: Iterable[Event], kind: str) -> list[str]:
    return [peer_name(index) for index in sorted({event["other"] for event in events if event["event"] == kind})]


def _latest(events: Iterable[Event]) -> float:
    return max((event["t"] for event in events), default=0.0)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
