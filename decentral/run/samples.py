"""Whose turn it is, where samples are drawn: the round, its sample, and how far the peers' views agree.

Everybody who draws the sample of a round writes down whom it found and a digest of the candidates that it drew from.
Equal digests are equal views; samples may agree where views differ a little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from decentral.run.directory import peer_name
from decentral.run.journal import Event

KEPT = 8
"""Rounds of which the samples are remembered."""
ENOUGH = 2
"""Peers who have drawn a sample from which on their views are compared."""

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What one peer found when it drew the sample of a round; its first few average the round before."""

    participants: tuple[int, ...]
    aggregators: tuple[int, ...]
    candidates: int
    view: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of those who drew the sample of `round`: how many share the commonest view, and the commonest sample."""

    round: int
    asked: int
    view: int
    sample: int
    candidates: tuple[int, int]
    """The fewest and the most that any of them sees."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The round that is being trained; its sample, of whom some are done; who is to average it, if that is known."""

    round: int
    participants: tuple[int, ...]
    trained: tuple[int, ...]
    aggregators: tuple[int, ...]
    averaged: int
    """The newest round whose aggregate exists."""
    agreement: Agreement | None

    def as_json(self) -> dict[str, Any]:
        """For programs: peers by name."""
        named = {
            key: [peer_name(peer) for peer in getattr(self, key)] for key in ("participants", "trained", "aggregators")
        }
        return {**asdict(self), **named}


class Samples:
    """Follows the newest rounds of a run."""

    def __init__(self) -> None:
        self._drawn: dict[int, dict[int, Drawing]] = {}
        self._begun: dict[int, dict[int, None]] = {}  # in the order in which they came, each once
        self._trained: dict[int, dict[int, None]] = {}
        self._averaged = 0
        self._gone: set[int] = set()

    def take_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Any event of the run, in the order of time."""
        match event["event"]:
            case "crashed" | "left":
                self._gone.add(event["other"])
            case "started":
                self._gone.discard(event["peer"])
            case "phase" if event["phase"] == "train":
                self._at(self._begun, event).setdefault(event["peer"])
            case "trained":
                self._at(self._trained, event).setdefault(event["peer"])
            case "merged":
                if event["round"] < self._averaged and self._drawn:
                    self._go_back(event["round"], {event["peer"], *map(int, event.get("weights", ()))})
                self._averaged = event["round"]
            case "sampled":
                found = tuple(event["participants"]), tuple(event["aggregators"])
                self._drawn.setdefault(event["round"], {})[event["peer"]] = Drawing(
                    *found, event["candidates"], event["view"]
                )
                _forget(self._drawn)

    def _go_back(self, round: int, peers: set[int]) -> None:
        """`peers` have averaged a round that others, who are gone by now, had left behind: what these found is void."""
        drawn = {peer: drawing for peer, drawing in self._drawn.get(round + 1, {}).items() if peer in peers}
        for rounds in (self._begun, self._trained, self._drawn):
            for later in [number for number in rounds if number > round]:
                del rounds[later]
        if drawn:
            self._drawn[round + 1] = drawn

    @staticmethod
    def _at(rounds: dict[int, dict[int, None]], event: Event) -> dict[int, None]:
        found = rounds.setdefault(event["round"], {})
        _forget(rounds)
        return found

    @property
    def turn(self) -> Turn | None:
        """None: nobody has begun."""
        if not self._begun:
            return None
        round = max(self._begun)
        sample, following = self._living(round), self._living(round + 1)
        begun = tuple(self._begun[round])
        return Turn(
            round,
            participants=_commonest([drawing.participants for drawing in sample])[0] if sample else begun,
            trained=tuple(self._trained.get(round, ())),
            aggregators=_commonest([drawing.aggregators for drawing in following])[0] if following else (),
            averaged=self._averaged,
            agreement=self._agreement(),
        )

    def _living(self, round: int) -> list[Drawing]:
        """What peers that are still there found for a round."""
        return [drawing for peer, drawing in self._drawn.get(round, {}).items() if peer not in self._gone]

    def _agreement(self) -> Agreement | None:
        """For the newest round that a few have drawn for; None: there is none yet."""
        for round in sorted(self._drawn, reverse=True):
            if len(drawings := self._living(round)) >= ENOUGH:
                counts = [drawing.candidates for drawing in drawings]
                return Agreement(
                    round,
                    len(drawings),
                    view=_commonest([drawing.view for drawing in drawings])[1],
                    sample=_commonest([drawing.participants for drawing in drawings])[1],
                    candidates=(min(counts), max(counts)),
                )
        return None


def turn_words(turn: Turn, rounds: int) -> list[str]:
    """For people, a line each."""
    done = f", {len(turn.trained)} done" if turn.trained else ""
    lines = [f"round {turn.round} of {rounds}: {_names(turn.participants)} in the sample{done}"]
    if turn.aggregators:
        lines.append(f"  averaged by {_names(turn.aggregators)}; the newest aggregate is that of round {turn.averaged}")
    if (found := turn.agreement) is not None:
        low, high = found.candidates
        count = f"{low}" if low == high else f"{low} to {high}"
        lines.append(
            f"  views: {found.view} of {found.asked} who drew for round {found.round} see the same candidates "
            f"({count}), {found.sample} found the same sample"
        )
    return lines


def _names(peers: Iterable[int]) -> str:
    return ", ".join(peer_name(peer) for peer in peers)


def _commonest(values: list[V]) -> tuple[V, int]:
    """And how often it is there; of equally common ones the first."""
    return Counter(values).most_common(1)[0]


def _forget(rounds: dict[int, Any]) -> None:
    """All but the newest."""
    while len(rounds) > KEPT:
        del rounds[min(rounds)]
