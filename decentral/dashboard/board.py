"""All that the page shows, folded from the events of a run: bounded, however long it lasts, and sent on in pieces.

Whoever has seen revision r and is given `since(r)` has what `since(0)` gives; so a reader that is slow, or was away, is
sent the newest state once and never what lay between.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from decentral.dashboard.series import Curve, Ring
from decentral.dashboard.sound import MOST_PEERS, sound
from decentral.dashboard.told import MARKS, Told
from decentral.dashboard.work import Work
from decentral.run.course import CARRIED, Sent
from decentral.run.journal import Event
from decentral.run.samples import Samples
from decentral.run.standing import Standings

MOST_CURVES = 128
"""Peers up to which each has a curve of its own."""
MEAN_POINTS, PEER_POINTS, BYTE_POINTS = 512, 96, 256
SPANS = 4096
MARKED = 512
OPEN = 64
"""Rounds whose means may still change."""
STEP = 0.1
"""Seconds between the first points of the curves over time."""

Value = Any
"""What JSON can hold."""


@dataclass(slots=True)
class Cell:
    """A value that is known from outside of the journals, and since which revision."""

    value: Value
    revision: int


class Board:
    """`peers`: as many as the recipe has; `aside`: those that do not count for means; `draws`: whether a few of them
    are drawn for each round, so that there is one model for all; `names`: of nodes
    that are not called peer-0 and so on."""

    def __init__(
        self, peers: int = 0, aside: Collection[int] = (), *, draws: bool = False, names: Sequence[str] = ()
    ) -> None:
        peers = min(peers, MOST_PEERS)
        self.revision = 0
        self.events, self.unsound = 0, 0
        self._now = 0.0
        self._draws, self._aside = draws, frozenset(aside)
        self._standings, self._samples = Standings(peers, aside), Samples()
        self._work, self._sent, self._told = Work(draws=draws), Sent(), Told(names)
        self._cells: dict[str, Cell] = {}
        self._loads: dict[int, list[int]] = {}
        self._touched: dict[int, int] = dict.fromkeys(range(peers), 0)
        self._evaluations: dict[int, dict[int, float]] = {}
        self._curves: dict[int, Curve] = {}
        self._mean = Curve(MEAN_POINTS)
        self._bytes = {kind: Curve(BYTE_POINTS, STEP) for kind in CARRIED}
        self._rounds: Curve = Curve(BYTE_POINTS, STEP)
        self._ended = 0
        self._spans: Ring[list[float | str]] = Ring(SPANS)
        self._marks: Ring[list[float | str]] = Ring(MARKED)

    # ---- what comes in --------------------------------------------------------------------------------------------

    def know(self, name: str, value: Value) -> None:
        """Something that no journal tells; the same again changes nothing."""
        if name not in self._cells or self._cells[name].value != value:
            self.revision += 1
            self._cells[name] = Cell(value, self.revision)

    def __contains__(self, name: str) -> bool:
        """Whether it is known."""
        return name in self._cells

    def take_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Any event, in whatever form it came; what is not sound is counted and left out."""
        self.revision += 1
        if not sound(event):
            self.unsound += 1
            return
        self.events += 1
        self._now = max(self._now, float(event["t"]))
        self._standings.take(event)
        if self._draws:
            self._samples.take(event)
        for span in self._work.take(event):
            self._spans.add(span.plain(), self.revision)
        self._told.take(event, self.revision)
        if event["event"] == "load":
            self._loads[event["peer"]] = _load(event)
        for peer in (event["peer"], event.get("other") if event["event"] in MARKS else None):
            if peer is not None:
                self._touched[peer] = self.revision
        if event["event"] in MARKS:
            self._marks.add([event["event"], event["other"], round(float(event["t"]), 3)], self.revision)
        self._draw(event)

    def _draw(self, event: Event) -> None:
        """The curves."""
        match event["event"]:
            case "evaluated" if event["accuracy"] is not None:
                self._evaluated(event["peer"], event["round"], float(event["accuracy"]))
            case "sent" | "round" | "finished":
                self._sent.take(event)
                for kind, size in self._sent.by_kind().items():
                    self._bytes[kind].put(float(event["t"]), size, self.revision)
        if event["event"] == "round" and (ended := self._standings.ended) > self._ended:
            self._ended = ended
            self._rounds.put(float(event["t"]), ended, self.revision)

    def _evaluated(self, peer: int, round: int, accuracy: float) -> None:
        if not self._draws and peer < MOST_CURVES and len(self._standings.peers) <= MOST_CURVES:
            curve = self._curves.setdefault(peer, Curve(PEER_POINTS))
            curve.put(round, _short(accuracy), self.revision)
        newest = max(self._evaluations, default=0)
        if peer in self._aside or round <= newest - OPEN:
            return
        found = self._evaluations.setdefault(round, {})
        found[peer] = accuracy
        self._mean.put(round, _short(math.fsum(found.values()) / len(found)), self.revision)
        for old in [each for each in self._evaluations if each <= round - OPEN]:
            del self._evaluations[old]

    # ---- what goes out --------------------------------------------------------------------------------------------

    def since(self, revision: int) -> dict[str, Value]:
        """What has changed after a revision; 0: everything."""
        series: dict[str, Ring[Any]] = {
            "mean": self._mean,
            "rounds": self._rounds,
            "spans": self._spans,
            "marks": self._marks,
            "told": self._told.ring,
            **{f"bytes/{kind}": curve for kind, curve in self._bytes.items()},
            **{f"peer/{peer}": curve for peer, curve in self._curves.items()},
        }
        fresh = {name: found for name, each in series.items() if (found := each.since(revision)) is not None}
        return {
            "revision": self.revision,
            "now": self._moment(),
            "cells": {name: cell.value for name, cell in self._cells.items() if cell.revision > revision},
            "peers": {peer: self._row(peer) for peer, at in self._touched.items() if at > revision or not revision},
            "series": fresh,
        }

    def _moment(self) -> Mapping[str, Value]:
        """The few figures of this moment."""
        turn = self._samples.turn if self._draws else None
        told = self._standings
        honest = any(peer not in self._aside for peer in range(len(told.peers)))
        return {
            "t": round(self._now, 3),
            "events": self.events,
            "unsound": self.unsound,
            "ended": told.ended,
            "present": len(told.present),
            "known": len(told.peers),
            "accuracy": _short(told.accuracy) if honest else None,
            "loss": _short(told.loss),
            "sent": self._sent.by_kind(),
            "sample": None if turn is None else asdict(turn),
        }

    def _row(self, peer: int) -> list[Value]:
        """What it is at, its round, loss, accuracy, bytes sent, since when it is at that; its load, if it serves."""
        since = self._work.since(peer)
        if peer >= len(self._standings.peers):
            return [self._work.of(peer), 0, None, None, 0, since, None]
        known, load = self._standings.peers[peer], self._loads.get(peer)
        return [self._work.of(peer), known.round, _short(known.loss), _short(known.accuracy), known.sent, since, load]


def _load(event: Event) -> list[int]:
    """Tasks that wait, answers, tasks that were declined, proofs, and what was refused, all reasons together."""
    return [*(event[name] for name in ("waiting", "answered", "declined", "proofs")), sum(event["refused"].values())]


def _short(value: float | None) -> Any:
    """As many digits as a page can show."""
    return None if value is None else float(f"{value:.5g}")
