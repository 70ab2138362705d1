"""Where each peer of a run stands, folded from its events: for the live progress and for `decentral status`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from decentral.run.journal import Event

GONE = ("crashed", "left", "failed", "drained")


@dataclass(slots=True)
class Standing:
    """The last that is known of one peer."""

    phase: str = "starting"
    round: int = 0
    loss: float | None = None
    accuracy: float | None = None
    evaluated: int = 0
    """The round of that accuracy."""
    sent: int = 0

    @property
    def gone(self) -> bool:
        return self.phase in GONE

    def take(self, event: Event) -> None:
        """An event of this peer's own journal."""
        if event["event"] not in ("sampled", "sent"):  # of a round that is to come, or that is over
            self.round = event.get("round", self.round)
        match event["event"]:
            case "started" | "finished" | "serving" | "failed" | "draining" | "drained":
                self.phase = event["event"]
            case "phase":
                self.phase = event["phase"]
            case "trained":
                self.loss = event["loss"]
            case "evaluated":
                self.accuracy, self.evaluated = event["accuracy"], event["round"]
            case "round":
                self.sent = event["bytes"]["total"]


class Standings:
    """All peers of a run, by index; those set `aside` do not count for means."""

    def __init__(self, peers: int, aside: Collection[int] = ()) -> None:
        self.peers = [Standing() for _ in range(peers)]
        self._aside = frozenset(aside)
        self._ended = [0] * peers
        self._drawn = False  # whether peers take part in some of the rounds only

    def take(self, event: Event) -> None:
        """Any event of the run, in the order of time."""
        if event["peer"] is not None:
            self._at(event["peer"]).take(event)
            self._count(event)
        elif event["event"] in ("crashed", "left"):
            self._at(event["other"]).phase = event["event"]

    def _at(self, index: int) -> Standing:
        """Of a peer, which may have been added to those of the run."""
        while index >= len(self.peers):
            self.peers.append(Standing())
            self._ended.append(0)
        return self.peers[index]

    def _count(self, event: Event) -> None:
        if event["event"] in ("started", "round"):
            self._drawn |= event["event"] == "round" and event["round"] > self._ended[event["peer"]] + 1
            self._ended[event["peer"]] = event["round"]

    def take_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.take(event)

    @property
    def present(self) -> list[Standing]:
        return [peer for peer in self.peers if not peer.gone]

    @property
    def round(self) -> int:
        """The round that the last of the present peers is in."""
        return min((peer.round for peer in self.present), default=0)

    @property
    def ended(self) -> int:
        """The round that the last of the present peers has ended; the first of all, where not all take part in each."""
        if self._drawn:
            return max(self._ended)
        return min((ended for peer, ended in zip(self.peers, self._ended, strict=True) if not peer.gone), default=0)

    @property
    def started(self) -> int:
        """How many have come up and are not gone."""
        return sum(peer.phase not in ("starting", *GONE) for peer in self.peers)

    @property
    def serving(self) -> int:
        """How many answer clients."""
        return sum(peer.phase == "serving" for peer in self.peers)

    @property
    def sent(self) -> int:
        """Bytes, over all peers."""
        return sum(peer.sent for peer in self.peers)

    @property
    def loss(self) -> float | None:
        """Mean training loss."""
        counted = [peer for index, peer in enumerate(self.peers) if index not in self._aside]
        known = [peer.loss for peer in counted if peer.loss is not None]
        return sum(known) / len(known) if known else None

    @property
    def accuracy(self) -> float | None:
        """Mean over the honest peers that have been evaluated; where not all take part in each round, in the newest."""
        honest = [peer for index, peer in enumerate(self.peers) if index not in self._aside]
        if self._drawn:
            newest = max(peer.evaluated for peer in honest)
            honest = [peer for peer in honest if peer.evaluated == newest]
        known = [peer.accuracy for peer in honest if peer.accuracy is not None]
        return sum(known) / len(known) if known else None
