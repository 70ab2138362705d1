"""Who did what when, where samples are drawn: what each peer was at, who came and went, how long rounds took.

The aggregate of a round ends the round; several aggregators may make one, and the first counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from decentral.run.journal import Event

LOCAL = ("local", "again")
"""Tags of a participant's model; the others are those of aggregates."""

ENDS = ("trained", "abandoned", "crashed", "left", "finished")
"""Events with which training is over."""

CHANGES = ("crashed", "left", "rejoined", "joined")
"""Launcher's events of a peer, the first two of which end its presence."""


@dataclass(frozen=True, slots=True)
class Span:
    """A peer at work on a round: `train`, `exchange` (it hands over its model), `merge` (it averages, and hands out
    the aggregate); or `away`."""

    peer: int
    what: str
    start: float
    end: float
    round: int


@dataclass(frozen=True, slots=True)
class Change:
    """A peer that came or went."""

    peer: int
    what: str
    at: float


@dataclass(frozen=True, slots=True)
class Round:
    """From the aggregate before it to its own; who trained for it to the end, and who averaged."""

    round: int
    start: float
    end: float
    participants: int
    aggregators: int


@dataclass(slots=True)
class Timeline:
    """Of a whole run, in the order of time."""

    spans: list[Span] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    present: list[tuple[float, int]] = field(default_factory=list)
    """How many peers were there from a moment on."""
    end: float = 0.0


def timeline(peers: int, events: Sequence[Event]) -> Timeline:
    """`events` as `journal.merge` orders them. A peer that is never started is away all the time."""
    end = max((event["t"] for event in events), default=0.0)
    changes = [
        Change(event["other"], event["event"], event["t"])
        for event in events
        if event["peer"] is None and event["event"] in CHANGES
    ]
    away = list(_away(peers, events, changes, end))
    return Timeline([*_at_work(events), *away], changes, list(_rounds(events)), _present(peers, away, end), end)


def _at_work(events: Iterable[Event]) -> Iterable[Span]:
    """Training that was given up lasts until what came instead, or until its peer was gone."""
    training: dict[int, tuple[int, float]] = {}
    made: dict[tuple[int, str], tuple[int, float]] = {}  # by peer and what it will be handed over as: round, since when
    for event in events:
        peer, what, now = event["peer"], event["event"], event["t"]
        gone = event["other"] if what in ("crashed", "left") else peer
        begins = what == "phase" and event["phase"] == "train"
        if gone in training and (begins or what in ENDS):
            round, since = training.pop(gone)
            yield Span(gone, "train", since, now, round)
        if begins:
            training[peer] = event["round"], now
        elif what == "trained":
            made[peer, "exchange"] = event["round"], now
        elif what == "merged":
            made[peer, "merge"] = event["round"], now
            yield Span(peer, "merge", now - event["seconds"], now, event["round"])
        elif what == "sent":
            kind = "exchange" if event["tag"] in LOCAL else "merge"
            if made.get((peer, kind), (0, 0.0))[0] == event["round"]:
                yield Span(peer, kind, made.pop((peer, kind))[1], now, event["round"])


def _away(peers: int, events: Iterable[Event], changes: Iterable[Change], end: float) -> Iterable[Span]:
    """Between going and coming back; before joining."""
    started = {event["peer"] for event in events if event["event"] == "started"}
    gone = dict.fromkeys(set(range(peers)) - started, 0.0)
    gone |= {change.peer: 0.0 for change in changes if change.what == "joined"}
    for change in changes:
        if change.what in ("crashed", "left"):
            gone[change.peer] = change.at
        elif change.peer in gone:
            yield Span(change.peer, "away", gone.pop(change.peer), change.at, 0)
    for peer, since in gone.items():
        yield Span(peer, "away", since, end, 0)


def _present(peers: int, away: Iterable[Span], end: float) -> list[tuple[float, int]]:
    steps: dict[float, int] = defaultdict(int)
    for span in away:
        steps[span.start] -= 1
        if span.end < end:  # it came back
            steps[span.end] += 1
    found, there = [], peers
    for at in sorted({0.0, *steps}):
        there += steps[at]
        found.append((at, there))
    return found


def _rounds(events: Iterable[Event]) -> Iterable[Round]:
    trained: dict[int, set[int]] = defaultdict(set)
    averaged: dict[int, dict[int, float]] = defaultdict(dict)
    for event in events:
        if event["event"] == "trained":
            trained[event["round"]].add(event["peer"])
        elif event["event"] == "merged":
            averaged[event["round"]].setdefault(event["peer"], event["t"])
    before = 0.0
    for round, by in sorted(averaged.items()):
        ended = max(min(by.values()), before)
        yield Round(round, before, ended, len(trained[round]), len(by))
        before = ended
