"""Who hears nothing from anybody: more likely cut off itself than the last one alive.

A machine whose peer has ended says so; where nothing comes back, the network may be broken on either side. A peer to
whom everybody has fallen silent waits for a while before it goes on alone, because all that it did alone would be lost
in the rounds that the others have had meanwhile, or would outrun them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from decentral.errors import Silent, TransportError
from decentral.wire.clock import Clock

if TYPE_CHECKING:
    from decentral.algorithms.base import Journal


class Silence:
    """What one peer notes of how its calls have ended. `patience`: seconds that it waits for others, cut off."""

    def __init__(self, clock: Clock, journal: Journal, patience: float) -> None:
        self._clock, self._journal, self._patience = clock, journal, patience
        self._silent: set[int] = set()
        self._ends: float | None = None

    def heard(self, index: int) -> None:
        """Another peer has answered."""
        self._silent.discard(index)
        self._ends = None

    def failed(self, index: int, error: TransportError) -> None:
        """A call to it has failed: nothing came back, or its machine has answered, or the peer has refused."""
        if isinstance(error, Silent):
            self._silent.add(index)
        else:
            self._silent.discard(index)

    def covers(self, others: Collection[int]) -> bool:
        """Whether all of them are silent; of nobody nothing can be said."""
        return len(others) > 0 and self._silent.issuperset(others)

    def patient(self, round: int) -> bool:
        """Whether a peer that is cut off in `round` waits on; if it has once given up, not until it has heard again."""
        now = self._clock.now()
        if self._ends is None:
            self._ends = now + self._patience
            self._journal.record("cut_off", round=round)
        return now < self._ends
