"""Lists that grow and stay bounded, of which each reader is sent what it does not have yet.

Every item carries the revision at which it came or was changed. An item that changes takes all after it along, so that
revisions never decrease along a list, and what a reader lacks is its end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Generic, TypeVar

T = TypeVar("T")

WINDOW = 32
"""Points at the end of a curve that may still change."""


class Ring(Generic[T]):
    """The newest `most` items."""

    def __init__(self, most: int) -> None:
        self.items: list[T] = []
        self._revisions: list[int] = []
        self._most = most
        self._first = 0  # the number of the first item that is kept
        self._made = 0  # the revision since which numbers stand for the same items

    def add(self, item: T, revision: int) -> None:
        self.items.append(item)
        self._revisions.append(revision)
        if len(self.items) > self._most + self._most // 4:  # seldom, since it moves everything
            gone = len(self.items) - self._most
            del self.items[:gone], self._revisions[:gone]
            self._first += gone

    def change(self, place: int, item: T, revision: int) -> None:
        """`place` counts from the first that is kept."""
        self.items[place] = item
        self._revisions[place:] = [revision] * (len(self.items) - place)

    def renumber(self, items: list[T], revision: int) -> None:
        """Other items in place of all; readers are sent them anew."""
        self.items, self._revisions = items, [revision] * len(items)
        self._first, self._made = 0, revision

    def since(self, revision: int) -> dict[str, Any] | None:
        """What a reader lacks that has seen `revision`; None: nothing. `from` and `first` are numbers of items.

        The reader drops what it has from `from` on and before `first`, and appends `items`.
        """
        anew = revision < self._made
        start = 0 if anew else bisect_right(self._revisions, revision)
        if start == len(self.items) and not anew:
            return None
        return {"first": self._first, "from": self._first + start, "items": self.items[start:]}


class Curve(Ring[tuple[float, float]]):
    """Points in the order of x, at most `most`: of more, steps along x double and the last of each stays."""

    def __init__(self, most: int, step: float = 1.0) -> None:
        super().__init__(most)
        self._step = step

    def put(self, x: float, y: float, revision: int) -> None:
        """A new point, or another value of one of the last; what is older stays as it is."""
        if not self.items or x > self.items[-1][0]:
            if self.items and self._bucket(x) == self._bucket(self.items[-1][0]):
                self.change(len(self.items) - 1, (x, y), revision)
                return
            self.add((x, y), revision)
            if len(self.items) >= self._most:
                self._thin(revision)
            return
        start = max(0, len(self.items) - WINDOW)
        place = bisect_left(self.items, x, start, key=lambda point: point[0])
        if place < len(self.items) and self.items[place][0] == x and self.items[place][1] != y:
            self.change(place, (x, y), revision)

    def _bucket(self, x: float) -> int:
        return int(x // self._step)

    def _thin(self, revision: int) -> None:
        points = self.items
        while len(points) >= self._most:
            self._step *= 2
            points = list({self._bucket(x): (x, y) for x, y in points}.values())
        self.renumber(points, revision)
