"""The journals of a folder in the order of time, a bounded piece at once, so that a long history needs no more memory
than a short one.

What is no line of a journal is passed on as what it is, nothing that is sound, and stops nobody from reading on.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentral.dashboard.sound import number
from decentral.run.journal import journals

MOST = 1 << 20
"""Bytes that are read at once, of all journals together ..."""
LEAST = 4 << 10
"""... and of each of them, however many there are."""
LONGEST = 1 << 20
"""Bytes of a line; a longer one is none."""
FIND = 10
"""Polls between looks for journals that are new."""


@dataclass(slots=True)
class _Journal:
    """How far one has been read, and what has been read of it and not passed on: time and event."""

    path: Path
    place: int
    offset: int = 0
    unread: int = 0
    latest: float = float("-inf")
    waiting: deque[tuple[float, Any]] = field(default_factory=deque)


class Reading:
    """Of one folder, from the beginning and on while journals grow; some may appear later, or be cut and grow again."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder, self._most = folder, most
        self._journals: dict[Path, _Journal] = {}
        self._polls = 0

    def poll(self) -> list[Any]:
        """What comes next, by time; what is not written to its end waits. Empty: there is nothing new, for now.

        Nothing is passed on that an event of another journal, not read yet, may come before, as far as times tell.
        """
        if self._polls % FIND == 0 or len(self._journals) < 2:
            for path in journals(self._folder):
                self._journals.setdefault(path, _Journal(path, len(self._journals)))
        self._polls += 1
        piece = max(LEAST, self._most // max(1, len(self._journals)))
        for journal in self._journals.values():
            self._read(journal, piece)
        held = [each.latest for each in self._journals.values() if each.unread]
        horizon = min(held, default=float("inf"))
        return [event for _, _, event in heapq.merge(*(self._ready(each, horizon) for each in self._journals.values()))]

    def _read(self, journal: _Journal, piece: int) -> None:
        try:
            size = journal.path.stat().st_size
        except FileNotFoundError:
            size = 0
        journal.offset = min(journal.offset, size)  # it may have been rewound
        if journal.waiting or size == journal.offset:
            journal.unread = size - journal.offset
            return
        with journal.path.open("rb") as file:
            file.seek(journal.offset)
            data = file.read(piece)
            if b"\n" not in data and len(data) == piece:
                data += file.read(LONGEST - piece)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) >= LONGEST:
            whole = data
        journal.offset += len(whole)
        journal.unread = size - journal.offset if whole else 0
        for line in whole.splitlines():
            event = _event(line)
            if isinstance(event, dict) and number(event.get("t")):
                journal.latest = max(journal.latest, float(event["t"]))  # a clock may go back, lines do not
            journal.waiting.append((journal.latest, event))

    def _ready(self, journal: _Journal, horizon: float) -> Iterator[tuple[float, _Order, Any]]:
        count = 0
        while journal.waiting and journal.waiting[0][0] <= horizon:
            at, event = journal.waiting.popleft()
            count += 1
            yield at, _Order(journal.place, count), event


@dataclass(frozen=True, slots=True, order=True)
class _Order:
    """Of events of one instant: by journal, then by line."""

    journal: int
    line: int


def _event(line: bytes) -> Any:
    """What a line says; of one that says nothing, nothing."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
