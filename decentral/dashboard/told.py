"""What happened, in words, newest last: who came and went, whose messages were not taken, and why.

The same thing said by many peers, or again and again by one, is one entry that counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from decentral.dashboard.series import Ring
from decentral.dashboard.sound import clipped, index
from decentral.run.directory import peer_name
from decentral.run.journal import Event
from decentral.run.report import TOLD

MOST = 160
NEAR = 24
"""Entries at the end with which a new one may be one."""
BETWEEN = 30.0
"""Seconds up to which the same thing, said again, is one entry."""

WORDS: Mapping[str, str] = {
    **TOLD,
    "lost": "{other} lost by {peer} in round {round}",
    "returned": "{other} back with {peer} in round {round}",
    "refused": "{other} refused a message of {peer} in round {round}: {reason}",
    "rejected": "{peer} rejected a message of {other} in round {round}: {reason}",
    "alone": "{peer} came back and found nobody",
    "cut_off": "{peer} hears nothing from anybody since round {round}, and waits",
    "expired": "certificate of {peer} expired",
    "unrenewed": "certificate of {peer} was not renewed: {problem}",
    "misbehaves": "{peer} was told to lie: {behaviour} (simulated)",
    "unquoted": "the simulated processor ended",
}
BAD = frozenset({"crashed", "failed", "refused", "rejected", "expired", "unrenewed", "misbehaves", "unquoted"})
GOOD = frozenset({"rejoined", "returned", "joined"})
MARKS = frozenset({"crashed", "rejoined", "left", "joined"})
"""What is marked in the timeline."""
ABOUT = {"lost": ("other",), "returned": ("other",), "refused": ("peer", "reason"), "rejected": ("other", "reason")}
"""What has to be the same for an entry to count instead of being told again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`count`: how many times it was told, first at `t`."""

    t: float
    kind: str
    tone: str
    text: str
    count: int = 1

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "t": round(self.t, 3)}


class Told:
    """Follows a run; `ring` has the newest entries, as plain values."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """`names`: of nodes that are not called peer-0, peer-1 and so on, by index."""
        self._names = names
        self.ring: Ring[dict[str, Any]] = Ring(MOST)
        self._entries: list[tuple[tuple[Any, ...], Entry]] = []

    def take(self, event: Event, revision: int) -> None:
        """An event that is sound; most are not told."""
        kind = event["event"]
        if kind not in WORDS:
            return
        key = (kind, *(clipped(str(event.get(name))) for name in ABOUT.get(kind, ())))
        for back, (other, entry) in enumerate(reversed(self._entries), start=1):
            if kind in ABOUT and other == key and event["t"] - entry.t <= BETWEEN:
                again = replace(entry, count=entry.count + 1)
                self._entries[-back] = (key, again)
                self.ring.change(len(self.ring.items) - back, again.plain(), revision)
                return
        tone = "bad" if kind in BAD else "good" if kind in GOOD else "plain"
        entry = Entry(float(event["t"]), kind, tone, clipped(WORDS[kind].format_map(_Named(event, self._names))))
        self._entries = [*self._entries[-NEAR + 1 :], (key, entry)]
        self.ring.add(entry.plain(), revision)


class _Named(dict[str, str]):
    """An event's fields as texts: peers by name, and what is missing as a question mark."""

    def __init__(self, event: Event, names: Sequence[str]) -> None:
        words = {key: _word(value) for key, value in event.items() if isinstance(value, str | int)}
        for key in ("peer", "other"):
            if index(event.get(key)):
                words[key] = names[event[key]] if event[key] < len(names) else peer_name(event[key])
        super().__init__(words)

    def __missing__(self, key: str) -> str:
        return "?"


def _word(value: object) -> str:
    """Of others' texts no more than is shown, on one line, without what a screen would act on."""
    return "".join(each if each.isprintable() else " " for each in clipped(str(value)))
