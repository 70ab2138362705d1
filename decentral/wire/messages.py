"""What peers say to one another, as values.

The encoding lives in `codec`; a transport moves these and authenticates who sent them, so no message names its sender.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NewType

import numpy as np
from jaxtyping import Int64

if TYPE_CHECKING:
    from torch import Tensor

PROTOCOL_VERSION = 1

PeerId = NewType("PeerId", str)
"""Lower-case base32 of the SHA-256 of an Ed25519 public key: 52 characters, also a DNS label."""


class Traffic(Enum):
    """What bytes are counted as, in every world."""

    MODEL = "model"
    CONTROL = "control"
    EVIDENCE = "evidence"


class MembershipStatus(Enum):
    JOIN = 1
    LEAVE = 2


@dataclass(frozen=True, slots=True)
class MembershipRecord:
    """A peer's own signed word that it joins or leaves. The higher counter of one peer wins."""

    peer: PeerId
    public_key: bytes
    status: MembershipStatus
    counter: int
    address: str
    first_round: int
    signature: bytes


def _none() -> Int64[np.ndarray, " seen"]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class News:
    """What one peer knows of the others: changed records; who was seen at work, by number in the plan, and when.

    `peers` ascend. `recipe_hash` is the beginning of the sender's: where nobody is greeted, it tells who came to
    another run.
    """

    records: tuple[MembershipRecord, ...] = ()
    peers: Int64[np.ndarray, " seen"] = field(default_factory=_none)
    rounds: Int64[np.ndarray, " seen"] = field(default_factory=_none)
    recipe_hash: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, News):
            return NotImplemented
        same = self.records == other.records and self.recipe_hash == other.recipe_hash
        return same and np.array_equal(self.peers, other.peers) and np.array_equal(self.rounds, other.rounds)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there, and in which round?"""

    round: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answering peer's round; `synced`: the round whose news it has had."""

    round: int
    synced: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The aggregate of a round exists."""

    round: int


@dataclass(frozen=True, slots=True)
class Resend:
    """The sender, who knows of aggregates up to `round`, sees no progress: send your newest one on."""

    round: int


@dataclass(frozen=True, slots=True)
class Join:
    """The first thing a peer says to another. What differs is refused with PROTOCOL_VERSION, RECIPE or SCHEMA."""

    record: MembershipRecord
    recipe_hash: str
    schema_hash: str
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to a join: the round in which the answering peer is, and the members it knows."""

    round: int
    records: tuple[MembershipRecord, ...] = ()
    news: News | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """Membership records; as a request it asks for the other's."""

    records: tuple[MembershipRecord, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """A peer's signed goodbye."""

    record: MembershipRecord


@dataclass(frozen=True)
class Model:
    """Named tensors of one round: a peer's parameters and buffers.

    `tag` tells apart what one round may send in both directions (`"local"`: after local training, `"average"`: the
    result of an aggregation). `weight` is the push-sum weight that comes with it, finite and above zero; algorithms
    without one leave it at one. `news` is what the sender knows of the others, where samples are drawn. The digest is
    computed once per message by the codec, however many peers it is sent to.
    """

    round: int
    tensors: Mapping[str, Tensor]
    samples: int = 0
    tag: str = "local"
    weight: float = 1.0
    news: News | None = None
    _encoded: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False, hash=False)


Message = Ping | Pong | Join | Welcome | Membership | Progress | Resend | Leave | Model
