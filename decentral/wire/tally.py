"""What a server counts of those who call it, from its start on: to be seen from outside, and for nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from decentral.errors import Refusal


@dataclass(slots=True)
class Tally:
    """Sessions and tasks that there are now; how tasks and calls have ended."""

    sessions: int = 0
    waiting: int = 0
    """Tasks that are under way, or wait."""
    answered: int = 0
    declined: int = 0
    called_off: int = 0
    proofs: int = 0
    """Of what was answered."""
    refused: Counter[Refusal] = field(default_factory=Counter)
    """Calls and tasks, by the reason that their sender was told."""

    def as_event(self) -> dict[str, object]:
        """The fields of the event `load`."""
        refused = {reason.name: count for reason, count in sorted(self.refused.items())}
        counts = ("sessions", "waiting", "answered", "declined", "called_off", "proofs")
        return {**{name: getattr(self, name) for name in counts}, "refused": refused}
