"""What a peer's past answers say about its next one: a capped Beta distribution that forgets.

The mean of Beta(good + 1, bad + 3) (Jøsang and Ismail, Bled 2002), with decay. Good answers count up to a cap only, and
a proven lie forfeits them all: reputation that was saved up for a long time buys no better lie than a little of it.
Without the cap, and with a factor for every good answer, 22 good ones at 1.01 pay for one lie of 0.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PRIOR_GOOD, PRIOR_BAD = 1.0, 3.0
"""What one is taken for of whom nothing is known: one in four."""
CAP = 40.0
"""Good answers that count; also bad ones."""
LIE = 20.0
"""What a proven lie counts as, in bad answers."""
SILENCE = 2.0
"""What an answer that did not come counts as: it may have been the network."""
HALF_LIFE = 14 * 86_400.0
"""Seconds after which half of all this is forgotten."""
TESTS = 3
"""Known answers that a newcomer has to give before it is given more weight than any stranger."""


@dataclass(frozen=True, slots=True)
class Reputation:
    """`good` and `bad` answers in [0, CAP]; known-answer tests `passed` since the last lie, up to TESTS."""

    good: float = 0.0
    bad: float = 0.0
    passed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.good <= CAP and 0 <= self.bad <= CAP and 0 <= self.passed <= TESTS):
            raise ValueError(f"no reputation is {self.good} good, {self.bad} bad answers and {self.passed} tests")

    @property
    def score(self) -> float:
        """In (0, 1): the probability of a good answer."""
        return (self.good + PRIOR_GOOD) / (self.good + self.bad + PRIOR_GOOD + PRIOR_BAD)

    @property
    def newcomer(self) -> bool:
        """Whether it still has to give known answers."""
        return self.passed < TESTS

    @property
    def standing(self) -> float:
        """What drawing and routing go by: the score, or 0 of a newcomer."""
        return 0.0 if self.newcomer else self.score

    def answered(self) -> Reputation:
        """Gave an answer with which a quorum agreed."""
        return replace(self, good=min(self.good + 1, CAP))

    def tested(self) -> Reputation:
        """Gave the known answer to a test that it could not tell from a question."""
        return replace(self.answered(), passed=min(self.passed + 1, TESTS))

    def silent(self) -> Reputation:
        """Did not answer within the deadline."""
        return replace(self, bad=min(self.bad + SILENCE, CAP))

    def lied(self) -> Reputation:
        """Signed a wrong answer: what it had earned is gone, and it is a newcomer again, of bad repute."""
        return Reputation(0.0, min(self.bad + LIE, CAP), 0)

    def after(self, seconds: float) -> Reputation:
        """What is left of it after so much time: good and bad fade alike, the tests stay passed. Raises ValueError."""
        if not seconds >= 0:
            raise ValueError(f"time does not run backwards by {-seconds} s")
        left = 2.0 ** (-seconds / HALF_LIFE)
        return replace(self, good=self.good * left, bad=self.bad * left)
