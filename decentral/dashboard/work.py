"""What each peer is at while a run goes on, and for how long it was: the phases that journals tell, as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from decentral.run.journal import Event
from decentral.run.timeline import LOCAL

PHASES = ("train", "exchange", "merge", "evaluate")
"""What a peer works at; the other states have no work in them."""
WAITS, AWAY = "waiting", "away"
ENDS = frozenset({"trained", "abandoned", "exchanged", "merged", "evaluated", "round", "started"})
"""After these a peer waits until it begins something else."""
HANDS_ON: Mapping[str, str] = {"trained": "exchange", "merged": "merge"}
"""What a peer that was drawn does next: it hands over its model, or hands out the average."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` to `end` a peer was at something, in some round."""

    peer: int
    what: str
    start: float
    end: float
    round: int

    def plain(self) -> list[float | str]:
        """For programs, short."""
        return [self.peer, self.what, round(self.start, 3), round(self.end, 3), self.round]


@dataclass(frozen=True, slots=True)
class Doing:
    """Since when a peer has been at what, in which round."""

    what: str
    since: float
    round: int


class Work:
    """All peers'; `take` gives the spans that an event ends."""

    def __init__(self, *, draws: bool = False) -> None:
        """`draws`: whether peers are drawn for each round, and tell when they have handed on what they made."""
        self._draws = draws
        self.doing: dict[int, Doing] = {}

    def of(self, peer: int) -> str:
        """What a peer is at; of one that was never heard of, that it starts."""
        return self.doing[peer].what if peer in self.doing else "starting"

    def since(self, peer: int) -> float:
        """Since which second it is at that."""
        return round(self.doing[peer].since, 3) if peer in self.doing else 0.0

    def take(self, event: Event) -> Iterator[Span]:
        peer, what, now = event["peer"], event["event"], float(event["t"])
        if what in ("crashed", "left"):
            yield from self._change(event["other"], what, now)
        elif peer is None:
            return
        elif what == "phase":
            phase = event["phase"] if event["phase"] in PHASES else WAITS
            yield from self._change(peer, phase, now, event["round"])
        elif what in ("finished", "serving", "failed"):
            yield from self._change(peer, what, now)
        elif self._draws and what in HANDS_ON:
            if not (what == "merged" and self.of(peer) == "train"):  # of the next round, which has begun
                yield from self._change(peer, HANDS_ON[what], now - event.get("seconds", 0.0) * (what == "merged"))
        elif what == "sent":
            if self.of(peer) == ("exchange" if event["tag"] in LOCAL else "merge"):
                yield from self._change(peer, WAITS, now)
        elif what in ENDS:
            yield from self._change(peer, WAITS, now)

    def _change(self, peer: int, what: str, now: float, round: int = 0) -> Iterator[Span]:
        before = self.doing.get(peer)
        self.doing[peer] = Doing(what, now, round)
        if before is None or now <= before.since:
            return
        if before.what in PHASES:
            yield Span(peer, before.what, before.since, now, before.round)
        elif before.what in ("crashed", "left"):
            yield Span(peer, AWAY, before.since, now, 0)
