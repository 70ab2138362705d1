"""What a router has learned of each replica: its arm of the bandit and its usual latency, also on disk.

A lesson is one request and what came of it. Several processes of a client learn each for itself and put their lessons
together from time to time: lessons are what is added, so none is lost when two do so at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from decentral.core.bandit import Arm, Context, learn
from decentral.serving.selection.ledger import Ledger
from decentral.wire.messages import PeerId

FEATURES = 5
"""Of `core.bandit.features`."""
RIDGE = 0.3
"""How much is known to begin with: with less of it, who has not been tried for a while is soon tried again."""
SMOOTHING = 0.3
"""What the newest latency counts in the usual one."""
DISCOUNT = 0.99
"""What the past counts after one more request to a replica of the same part: about a hundred are remembered."""


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """`latency`: the usual one, in seconds; `seen`: how many answers that rests on, of which old ones count less."""

    arm: Arm
    latency: float = 0.0
    seen: float = 0.0

    @classmethod
    def new(cls) -> Track:
        """Of a replica of which nothing is known."""
        return cls(Arm.new(FEATURES, RIDGE))

    def answered(self, seconds: float) -> Track:
        """After one more answer."""
        kept = (1 - SMOOTHING) * self.seen
        return replace(self, latency=(kept * self.latency + seconds) / (kept + 1), seen=kept + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A request to `peer`, one of the replicas `together`: what was known before, and what came of it.

    `reward`: by how much its answer was worth more than was expected; `seconds`: None if no answer came.
    """

    peer: PeerId
    together: tuple[PeerId, ...]
    context: Context
    reward: float
    seconds: float | None


Tracks = Mapping[PeerId, Track]


def taught(tracks: Tracks, lesson: Lesson, discount: float = DISCOUNT) -> dict[PeerId, Track]:
    """After a lesson: what is held for true of all its replicas fades, and of one of them more is known."""
    group = {peer: tracks.get(peer) or Track.new() for peer in {*lesson.together, lesson.peer}}
    arms = learn({p: t.arm for p, t in group.items()}, lesson.peer, lesson.context, lesson.reward, discount)
    after = {peer: Track(arms[peer], track.latency, discount * track.seen) for peer, track in group.items()}
    if lesson.seconds is not None:
        after[lesson.peer] = after[lesson.peer].answered(lesson.seconds)
    return {**tracks, **after}


class Experience:
    """Tracks in a ledger. Both methods raise UserError where it cannot be used."""

    def __init__(self, ledger: Ledger, discount: float = DISCOUNT) -> None:
        self._ledger, self._discount = ledger, discount

    def learn(self, lessons: Sequence[Lesson]) -> dict[PeerId, Track]:
        """Adds lessons to what this and other processes have learned; the tracks after that."""
        with self._ledger.writing() as connection:
            tracks: dict[PeerId, Track] = {
                PeerId(peer): self._read(peer, *row)
                for peer, *row in connection.execute("SELECT peer, a, b, ridge, latency, seen FROM tracks")
            }
            touched: set[PeerId] = set()
            for lesson in lessons:
                tracks = taught(tracks, lesson, self._discount)
                touched |= {*lesson.together, lesson.peer}
            rows = [(peer, *_written(tracks[peer])) for peer in sorted(touched)]
            connection.executemany("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?)", rows)
            return tracks

    def _read(self, peer: str, a: bytes, b: bytes, *numbers: float) -> Track:
        try:
            ridge, latency, seen = map(float, numbers)
            arm = Arm(np.frombuffer(a).reshape(FEATURES, FEATURES), np.frombuffer(b).reshape(FEATURES), ridge)
        except (ValueError, TypeError) as error:
            raise self._ledger.damaged(f"what was learned of {peer}: {error}") from error
        numbers_sound = 0 < ridge < math.inf and 0 <= latency < math.inf and 0 <= seen < math.inf
        arm_sound = np.isfinite(arm.a).all() and np.isfinite(arm.b).all() and np.linalg.eigvalsh(arm.a).min() > 0
        if not (numbers_sound and arm_sound):
            raise self._ledger.damaged(f"what was learned of {peer} is nothing that can be learned")
        return Track(arm, latency, seen)


def _written(track: Track) -> tuple[bytes, bytes, float, float, float]:
    return track.arm.a.tobytes(), track.arm.b.tobytes(), track.arm.ridge, track.latency, track.seen
