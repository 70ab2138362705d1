"""What happens to a peer of MoDeST, and what it then does: the values that `modest_rounds` maps to one another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Timer(Enum):
    """What a peer may be waiting for."""

    COLLECT = "models of a round, as its aggregator"
    HURRY = "the same, when the first of them had been sent in vain to another before"
    DELIVERED = "a sign that the round in which it took part has been aggregated"
    SPREAD = "a sign that the round after its aggregate has been aggregated"
    LOOK = "any sign of life of the run"
    LOOK_AGAIN = "the same, when it has seen none before"


class Purpose(Enum):
    """What a sample is drawn for."""

    DELIVER = "to send a local model to its aggregators"
    SPREAD = "to send an aggregate to its participants"


@dataclass(frozen=True, slots=True)
class AggregateCame:
    """Aggregate `round` has come; the model is kept by the driver. `restart`: what was newer is lost."""

    round: int
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """Local training of `round` is over."""

    round: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """The sample of `round` was found: the peers, in the order in which they are drawn, that answered."""

    purpose: Purpose
    round: int
    sample: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LocalCame:
    """A participant's model of `round` has come; `again`: it had been sent in vain before."""

    round: int
    sender: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Averaged:
    """The average of `round` has been computed; `drawn`: who train for it as far as we know, and need not go on."""

    round: int
    drawn: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Delivered:
    """Somebody else has taken our aggregate of `round`, so it does not die with us."""

    round: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Somebody says that aggregate `round` exists."""

    round: int


@dataclass(frozen=True, slots=True)
class Elapsed:
    """A timer that was set for `round` has run out."""

    timer: Timer
    round: int


@dataclass(frozen=True, slots=True)
class Looked:
    """The newest aggregate that anybody who answered holds, and who; None: nobody answered."""

    round: int
    holder: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A peer that sees no progress asks for our aggregate to be spread."""

    sender: int


Event = AggregateCame | Trained | Drawn | LocalCame | Averaged | Delivered | Progressed | Elapsed | Looked | Asked


@dataclass(frozen=True, slots=True)
class Train:
    """On the aggregate held, for `round`; whatever was being trained is given up."""

    round: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Training: the aggregate that it was meant for exists without us."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Find out who of the candidates of `round` is there."""

    purpose: Purpose
    round: int


@dataclass(frozen=True, slots=True)
class SendLocal:
    """The local model of `round`, to its aggregators, for the time `resent` after the first.

    The second time it goes to those alone who have not got it, from then on to all.
    """

    round: int
    to: tuple[int, ...]
    resent: int


@dataclass(frozen=True, slots=True)
class SendAggregate:
    """Aggregate `round`, to those of these peers who have not got it from us; to all, if it is a `restart`."""

    round: int
    to: tuple[int, ...]
    restart: bool


@dataclass(frozen=True, slots=True)
class Average:
    """The models of `round` that came from `senders`."""

    round: int
    senders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Those peers that aggregate `round` exists."""

    round: int
    to: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Until the timer's time has passed; a timer of the same name that is running starts anew."""

    timer: Timer
    round: int


@dataclass(frozen=True, slots=True)
class Look:
    """Ask some peers which aggregate they hold."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A peer to spread its aggregate."""

    holder: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The last aggregate is here: pass it on, and end."""


Effect = Train | GiveUp | Draw | SendLocal | SendAggregate | Average | Tell | Wait | Look | Ask | Finish
