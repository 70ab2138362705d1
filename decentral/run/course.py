"""How accurate a run was, and what it had cost by then: time, bytes by what they carry, training images.

Where all peers go through the rounds together there is a point for each evaluated round, when its last peer has ended
it; where samples are drawn, for each aggregate, when it was first evaluated. All costs are sums over the peers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from decentral.run.journal import Event
from decentral.run.recipe import Recipe

CARRIED = ("model", "view", "control", "evidence")
"""What bytes are for: parameters; what models say of the peers beside; pings and other letters; evidence."""


@dataclass(frozen=True, slots=True)
class Point:
    """Mean test accuracy of the honest after a round; seconds, bytes and training images of all peers until then."""

    round: int
    accuracy: float
    seconds: float
    sent: Mapping[str, int]
    images: int

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.sent.values())


def course(recipe: Recipe, events: Sequence[Event]) -> list[Point]:
    """By round; `events` as `journal.merge` orders them."""
    return list(_drawn(recipe, events) if recipe.draws else _together(recipe, events))


def sent_in_all(events: Iterable[Event]) -> dict[str, int]:
    """Bytes of all peers by what they carried, as far as their journals tell."""
    sent = Sent()
    for event in events:
        sent.take(event)
    return sent.by_kind()


class Sent:
    """Bytes of all peers so far, from the counts in their events, each of which replaces the peer's last one."""

    def __init__(self) -> None:
        self._counts: dict[int, Mapping[str, int]] = {}
        self._total: Counter[str] = Counter()

    def take(self, event: Event) -> None:
        if event["event"] == "sent":
            self._total["view"] += event["view"]
        if event["event"] in ("sent", "round", "finished"):
            self._total.update(event["bytes"])
            self._total.subtract(self._counts.get(event["peer"], {}))
            self._counts[event["peer"]] = event["bytes"]

    def by_kind(self) -> dict[str, int]:
        """Views are part of what models were counted as; a peer that crashed has forgotten some of its own count."""
        found = {kind: self._total[kind] for kind in CARRIED}
        view = min(found["view"], found["model"])
        return {**found, "model": found["model"] - view, "view": view}


def _drawn(recipe: Recipe, events: Iterable[Event]) -> Iterable[Point]:
    sent, images, newest = Sent(), 0, 0
    for event in events:
        sent.take(event)
        if event["event"] == "trained":
            images += event["samples"]
        elif event["event"] == "evaluated" and event["round"] > newest and event["peer"] not in recipe.aside:
            newest = event["round"]
            if event["accuracy"] is not None:
                yield Point(newest, event["accuracy"], event["t"], sent.by_kind(), images)


def _together(recipe: Recipe, events: Iterable[Event]) -> Iterable[Point]:
    accuracies: dict[int, list[float]] = defaultdict(list)
    ends: dict[int, float] = {}
    images: Counter[int] = Counter()
    sent: dict[int, Counter[str]] = defaultdict(Counter)
    counted: dict[int, Mapping[str, int]] = {}
    for event in events:
        match event["event"]:
            case "trained":
                images[event["round"]] += event["samples"]
            case "evaluated" if event["accuracy"] is not None and event["peer"] not in recipe.aside:
                accuracies[event["round"]].append(event["accuracy"])
            case "round":
                ends[event["round"]] = event["t"]
                sent[event["round"]].update(event["bytes"])
                sent[event["round"]].subtract(counted.get(event["peer"], {}))
                counted[event["peer"]] = event["bytes"]
    seen, total = 0, Counter[str]()
    for round in sorted({*images, *ends}):
        seen += images[round]
        total.update(sent[round])
        if accuracies[round] and round in ends:
            mean = math.fsum(accuracies[round]) / len(accuracies[round])
            yield Point(round, mean, ends[round], {kind: total[kind] for kind in CARRIED}, seen)
