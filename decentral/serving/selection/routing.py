"""Which replica of a part a client takes for the one that serves.

What an answer will be worth is expected from a replica's usual latency, its requests under way, its price and its
reputation; a bandit (LinUCB, `core.bandit`) learns how far that is off, and hopes where it knows little. It chooses who
serves and nothing else. Who audits is drawn by lots from reputations, which the router reads and never writes: no
choice of a client tells a replica, or changes, who will be compared with it.

    strangers    serve only where nobody better known is awake, and are tested beside (`tests`): a crowd of identities
                 that are new, quick and cheap gains nothing
    failures     are worth 0, and put a replica aside for a pause that doubles while it goes on failing; after it, one
                 request finds out
    audits       are requests too: what they tell of a replica's speed costs nobody anything
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from decentral.core.bandit import Context, features
from decentral.core.reputation import LIE, Reputation
from decentral.serving.selection.experience import DISCOUNT, Lesson, Track, taught
from decentral.wire.messages import PeerId

HOPE = 0.3
"""Answers, as quick as the quickest, that everybody is credited with: who was slow long ago is tried again."""
ALPHA = 0.1
"""How much is hoped for where little is known, see `core.bandit.Arm.bound`."""
TESTING = 0.1
"""Of the requests to a part, those beside which a newcomer is tested."""
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 600.0
"""Seconds without requests for who has failed, doubled each time it fails again after them."""
SUSPECT = LIE / 2
"""Bad answers from which on a newcomer serves only where nobody else is left: it has lied, not so long ago."""
QUICKEST, SLOWEST = 1e-6, 1e6
"""Seconds that no answer is quicker, or slower, than."""


class Standing(Protocol):
    """What a client has seen of its peers: `Reputations`."""

    def of(self, peer: PeerId) -> Reputation: ...


class Learned(Protocol):
    """Where lessons stay when the process has ended: `Experience`."""

    def learn(self, lessons: Sequence[Lesson]) -> dict[PeerId, Track]: ...


def worth(seconds: float | None, quickest: float, price: float) -> float:
    """In [0, 1]: what an answer is worth that took so long, beside the usual latency of the quickest replica.

    1 for one as quick as that, and free; halved by twice the time, and by a price of 1. 0 if it did not come.
    """
    if seconds is None:
        return 0.0
    return quickest / max(quickest, seconds) / (1 + price)


@dataclass(frozen=True, slots=True)
class _Best:
    """Of those who could be asked: the least usual latency, and the highest score."""

    seconds: float
    score: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that is under way: when it began, what was known then, and what its answer was expected to be worth."""

    at: float
    context: Context
    quickest: float
    expected: float


@dataclass(slots=True, eq=False)
class _Requests:
    """Of one replica: what is under way, oldest first, and since when it fails."""

    began: deque[_Asked] = field(default_factory=deque)
    together: tuple[PeerId, ...] = ()
    """The replicas of its part, when one was last chosen."""
    failures: int = 0
    aside: float = -math.inf
    """Until when nothing is asked of it."""


class Router:
    """One client's, for all parts; a replica serves one part. Not for several threads at once."""

    def __init__(
        self,
        reputations: Standing,
        now: Callable[[], float],
        *,
        learned: Learned | None = None,
        chance: random.Random | None = None,
        alpha: float = ALPHA,
        discount: float = DISCOUNT,
        testing: float = TESTING,
    ) -> None:
        """`now`: seconds that never run backwards, as of a `Clock`. `learned`: what earlier processes know, and where
        `save` writes; it has the same discount. `chance`: by default, what nobody can foresee. Raises UserError.
        """
        self._reputations, self._now, self._learned = reputations, now, learned
        self._chance = chance or random.SystemRandom()
        self._alpha, self._discount, self._testing = alpha, discount, testing
        self._tracks: dict[PeerId, Track] = learned.learn(()) if learned is not None else {}
        self._unsaved: list[Lesson] = []
        self._prices: dict[PeerId, float] = {}
        self._requests: dict[PeerId, _Requests] = {}

    # ---- choosing -------------------------------------------------------------------------------------------------

    def serves(self, part: str, candidates: Sequence[PeerId]) -> PeerId:
        """Who is to serve this part now, of those that can. Raises ValueError if there are none."""
        if not candidates:
            raise ValueError(f"nobody serves {part}")
        for peer in candidates:
            self._of(peer).together = tuple(candidates)
        eligible = self._eligible(candidates)
        best = self._best(eligible)
        bounds = {peer: self._bound(peer, best) for peer in eligible}
        return min(bounds, key=lambda peer: (-bounds[peer], peer))

    def tests(self, candidates: Sequence[PeerId]) -> PeerId | None:
        """The newcomer to whom a question with a known answer is put beside this request; mostly None.

        Who has lied is tested less often than who is new, in proportion to their scores.
        """
        awake = [peer for peer in candidates if self._awake(peer) and self._reputations.of(peer).newcomer]
        if not awake or self._chance.random() >= self._testing:
            return None
        peer = self._chance.choice(sorted(awake))
        return peer if self._chance.random() < self._reputations.of(peer).score / Reputation().score else None

    def _eligible(self, candidates: Sequence[PeerId]) -> list[PeerId]:
        """The best-known that are awake; where all are aside, who is to come back first."""
        awake = [peer for peer in candidates if self._awake(peer)]
        if not awake:
            return [min(candidates, key=lambda peer: (self._of(peer).aside, peer))]
        found = {peer: self._reputations.of(peer) for peer in awake}
        known = [peer for peer in awake if not found[peer].newcomer]
        strangers = [peer for peer in awake if found[peer].bad < SUSPECT]
        return known or strangers or awake

    # ---- learning -------------------------------------------------------------------------------------------------

    def announced(self, peer: PeerId, price: float) -> None:
        """What it asks for an answer from now on, in any unit; 0 until then. Raises ValueError."""
        if not 0 <= price < math.inf:
            raise ValueError(f"a price is a number and at least 0, not {price}")
        self._prices[peer] = price

    def usual(self, peer: PeerId) -> float | None:
        """Seconds that it takes as a rule, none if it has only failed so far; None: it was never asked."""
        if (track := self._track(peer)).seen:
            return track.latency
        return 0.0 if self._of(peer).failures else None

    def began(self, peer: PeerId) -> None:
        """A request to it is under way, to serve or to audit."""
        mine = self._of(peer)
        best = self._best([each for each in mine.together if self._awake(each)] or [peer])
        asked = _Asked(self._now(), self._context(peer, best), best.seconds, self._expected(peer, best))
        mine.began.append(asked)

    def ended(self, peer: PeerId, seconds: float | None) -> None:
        """A request to it has ended, after so many seconds; None: without an answer, or with a wrong one.

        Of several that are under way the oldest is taken for the one. Raises ValueError if none is, or for a time that
        cannot be.
        """
        mine = self._of(peer)
        if not mine.began:
            raise ValueError(f"no request to {peer} is under way")
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ValueError(f"no request takes {seconds} s")
        asked = mine.began.popleft()
        reward = worth(seconds, asked.quickest, self._prices.get(peer, 0.0))
        lesson = Lesson(peer, mine.together or (peer,), asked.context, reward - asked.expected, seconds)
        self._tracks = taught(self._tracks, lesson, self._discount)
        if self._learned is not None:
            self._unsaved.append(lesson)
        if seconds is not None:
            mine.failures, mine.aside = 0, -math.inf
        elif asked.at >= mine.aside:  # what fails together is one failure
            mine.aside = self._now() + min(FIRST_PAUSE * 2.0**mine.failures, LONGEST_PAUSE)
            mine.failures += 1

    def withdrawn(self, peer: PeerId) -> None:
        """A request to it is not under way any more, and nothing is learned from that: whoever asked has gone.

        Raises ValueError if none is.
        """
        mine = self._of(peer)
        if not mine.began:
            raise ValueError(f"no request to {peer} is under way")
        mine.began.pop()

    def save(self) -> None:
        """Puts what was learned since the last time together with what other processes of this client have learned.

        At the end and now and then: until then this process alone knows it. Raises UserError, and forgets nothing.
        """
        if self._learned is not None and self._unsaved:
            self._tracks = self._learned.learn(self._unsaved)
            self._unsaved = []

    def _of(self, peer: PeerId) -> _Requests:
        return self._requests.setdefault(peer, _Requests())

    def _awake(self, peer: PeerId) -> bool:
        """Not aside; after a pause a single request finds out whether it answers again."""
        mine = self._of(peer)
        return mine.aside <= self._now() and not (mine.failures and mine.began)

    def _track(self, peer: PeerId) -> Track:
        return self._tracks.get(peer) or Track.new()

    def _best(self, peers: Sequence[PeerId]) -> _Best:
        """Where no answer has come yet, whichever comes is as quick as can be."""
        tracks = [self._track(peer) for peer in peers]
        quickest = min((track.latency for track in tracks if track.seen), default=SLOWEST)
        return _Best(max(quickest, QUICKEST), max(self._reputations.of(peer).score for peer in peers))

    def _usual(self, peer: PeerId, best: _Best) -> float:
        """Seconds."""
        track = self._track(peer)
        return (track.seen * track.latency + HOPE * best.seconds) / (track.seen + HOPE)

    def _expected(self, peer: PeerId, best: _Best) -> float:
        """What an answer is worth if requests take their turn, and as many answers are good as scores say.

        A request that is late already tells more than earlier answers do.
        """
        began = self._of(peer).began
        late = self._now() - began[0].at if began else 0.0
        seconds = max(self._usual(peer, best) * (1 + len(began)), late)
        good = min(self._reputations.of(peer).score / best.score, 1.0)
        return good * worth(seconds, best.seconds, self._prices.get(peer, 0.0))

    def _context(self, peer: PeerId, best: _Best) -> Context:
        """Latency is beside the quickest one's: parts that take milliseconds are as hard to choose for as others."""
        load, price = float(len(self._of(peer).began)), self._prices.get(peer, 0.0)
        return features(self._usual(peer, best) / best.seconds, load, price, self._reputations.of(peer).standing)

    def _bound(self, peer: PeerId, best: _Best) -> float:
        """What may be hoped for: what is expected, and how its arm knows it to differ from that at best."""
        return self._expected(peer, best) + self._track(peer).arm.bound(self._context(peer, best), self._alpha)
