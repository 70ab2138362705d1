"""What a peer knows of the others: who has joined and left, and until when each was seen at work.

A view is an element of a join-semilattice. Of every peer it holds the newest word that this peer has signed about its
own membership, ordered by (counter, leave above join, mark), and the latest round in which anybody saw it active; two
views merge by taking the greater of each (MoDeST, arXiv 2302.13837, section 3.2). Peers are numbered by the plan.

Words and rounds are kept as arrays, of which those that seldom change are shared between copies until one writes: ten
thousand views of ten thousand peers fit into a simulator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

UNTOLD = np.iinfo(np.int32).max
"""Stamp of a word that was heard outside the rounds and has not been passed on yet: it is news to everybody."""

Peers = Int64[np.ndarray, " chosen"]


@dataclass(frozen=True, slots=True)
class Word:
    """What a peer has said of its own membership. The signed record itself is kept elsewhere.

    `mark` is drawn from the record's bytes: it decides, everywhere alike, between two words that one peer has signed
    with the same counter.
    """

    peer: int
    counter: int
    left: bool
    mark: int

    def key(self) -> tuple[int, bool, int]:
        """Words of one peer are ordered by this."""
        return self.counter, self.left, self.mark


class View:
    """Mutable, for one peer; `copy` is cheap. Before a peer has said anything its counter is 0."""

    def __init__(self, peers: int) -> None:
        self._counter = np.zeros(peers, np.int64)
        self._left = np.zeros(peers, np.bool_)
        self._mark = np.zeros(peers, np.int64)
        self._told = np.zeros(peers, np.int32)
        self._active = np.full(peers, -1, np.int32)
        self._shared = False

    def __len__(self) -> int:
        """Peers of the plan, whether they have joined or not."""
        return len(self._counter)

    def __eq__(self, other: object) -> bool:
        """Whether two views hold the same words and rounds, whenever they came to know them."""
        if not isinstance(other, View):
            return NotImplemented
        return all(np.array_equal(a, b) for a, b in zip(self._lattice(), other._lattice(), strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _lattice(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self._counter, self._left, self._mark, self._active

    def copy(self) -> View:
        """Another view that knows the same. Both share the words until one of them learns a new one."""
        twin = View(0)
        twin._counter, twin._left, twin._mark, twin._told = self._counter, self._left, self._mark, self._told
        twin._active = self._active.copy()
        self._shared = twin._shared = True
        return twin

    def _own(self) -> None:
        if self._shared:
            self._counter, self._left = self._counter.copy(), self._left.copy()
            self._mark, self._told = self._mark.copy(), self._told.copy()
            self._shared = False

    # ---- learning -------------------------------------------------------------------------------------------------

    def word(self, peer: int) -> Word:
        """The newest that is known of a peer."""
        return Word(peer, int(self._counter[peer]), bool(self._left[peer]), int(self._mark[peer]))

    def learn(self, word: Word, told: int = UNTOLD) -> bool:
        """Takes a word over if it is newer than what is known; returns whether it was.

        `told`: the round in whose messages it came, so that it is passed on as news of that round.
        """
        if word.key() <= self.word(word.peer).key():
            return False
        self._own()
        self._counter[word.peer], self._left[word.peer] = word.counter, word.left
        self._mark[word.peer], self._told[word.peer] = word.mark, told
        return True

    def see(self, peers: Peers, rounds: Int64[np.ndarray, " chosen"], now: int) -> None:
        """Those peers were active in those rounds. A round after `now` counts as `now`: nobody works in the future."""
        np.maximum.at(self._active, peers, np.minimum(rounds, now).astype(np.int32))

    def merge(self, other: View) -> None:
        """The least view that knows all that either knows."""
        for peer in np.flatnonzero(other._counter):
            self.learn(other.word(int(peer)), int(other._told[peer]))
        np.maximum(self._active, other._active, out=self._active)

    # ---- asking ---------------------------------------------------------------------------------------------------

    @property
    def active(self) -> Int32[np.ndarray, " peers"]:
        """The latest round in which each peer was seen at work; -1: never. Not to be written."""
        return self._active

    def members(self) -> np.ndarray:
        """[peers], True for those who have joined and not left."""
        found: np.ndarray = (self._counter > 0) & ~self._left
        return found

    def candidates(self, round: int, window: int, own: int) -> Peers:
        """Who may be drawn for `round`: members seen in the last `window` rounds, in ascending order; `own` always."""
        chosen = self.members() & (self._active >= round - window)
        chosen[own] = True
        return np.flatnonzero(chosen)

    def news(
        self, since: int, now: int
    ) -> tuple[Int64[np.ndarray, " words"], Int64[np.ndarray, " seen"], Int64[np.ndarray, " seen"]]:
        """What one may not know who knew all of round `since`: peers with a newer word; peers seen since, and when.

        What had not been told to anybody is told now, and is news of round `now` from here on. That a peer was there in
        round 0, before the first, is known from the plan and no news.
        """
        untold = np.flatnonzero(self._told == UNTOLD)
        if len(untold):
            self._own()
            self._told[untold] = now
        words = np.flatnonzero((self._told >= since) & (self._counter > 0))
        seen = np.flatnonzero(self._active >= max(since, 1))
        return words, seen, np.minimum(self._active[seen], now).astype(np.int64)


def view_of(peers: int, words: Iterable[Word], round: int = 0) -> View:
    """A first view: these words, all of them from peers that are active in `round`, and no news to anybody."""
    view = View(peers)
    for word in words:
        view.learn(word, -1)
        view._active[word.peer] = round
    return view
