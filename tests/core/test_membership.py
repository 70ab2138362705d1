"""Views form a join-semilattice, a leave is never undone by an older join, and news brings the one who lags level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.membership import View, Word, view_of

PEERS = 6

words = st.builds(
    Word, peer=st.integers(0, PEERS - 1), counter=st.integers(1, 3), left=st.booleans(), mark=st.integers(0, 2)
)
sightings = st.lists(st.tuples(st.integers(0, PEERS - 1), st.integers(0, 9)), max_size=8)


@st.composite
def views(draw: st.DrawFn) -> View:
    view = View(PEERS)
    for word in draw(st.lists(words, max_size=8)):
        view.learn(word)
    see(view, draw(sightings), now=9)
    return view


def see(view: View, seen: list[tuple[int, int]], now: int) -> None:
    peers, rounds = np.array(seen, np.int64).reshape(-1, 2).T
    view.see(peers, rounds, now)


def merged(*views: View) -> View:
    first, *others = (view.copy() for view in views)
    for other in others:
        first.merge(other)
    return first


@given(views(), views())
def test_merging_is_commutative(a: View, b: View) -> None:
    assert merged(a, b) == merged(b, a)


@given(views(), views(), views())
def test_merging_is_associative(a: View, b: View, c: View) -> None:
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


@given(views(), views())
def test_merging_is_idempotent_and_never_forgets(a: View, b: View) -> None:
    both = merged(a, b)
    assert merged(a, a) == a
    assert merged(both, a) == both == merged(both, b)


@given(st.lists(words, max_size=12), st.randoms())
def test_words_may_come_in_any_order_and_more_than_once(said: list[Word], chance) -> None:
    again = said * 2
    chance.shuffle(again)
    one, other = View(PEERS), View(PEERS)
    for word in said:
        one.learn(word)
    for word in again:
        other.learn(word)
    assert one == other


@given(views(), words)
def test_a_leave_is_never_undone_by_an_older_join(view: View, word: Word) -> None:
    view.learn(Word(word.peer, 5, True, word.mark))
    assert not view.learn(Word(word.peer, word.counter, False, word.mark))
    assert not view.members()[word.peer]
    assert view.learn(Word(word.peer, 6, False, 0)), "a peer that comes back outranks its past"
    assert view.members()[word.peer]


@given(views(), views(), words)
def test_copies_share_nothing_that_is_written(a: View, b: View, word: Word) -> None:
    before, twin = a.copy(), a.copy()
    twin.learn(Word(word.peer, 9, word.left, 0))
    twin.merge(b)
    assert a == before
    a.learn(Word(word.peer, 10, word.left, 0))
    assert twin.word(word.peer).counter == 9


def test_nobody_is_seen_in_the_future() -> None:
    view = View(PEERS)
    see(view, [(0, 10**9), (1, 3)], now=7)
    see(view, [(0, 2)], now=7)
    assert view.active.tolist() == [7, 3, -1, -1, -1, -1]


@given(views(), st.integers(0, 12), st.integers(0, 12), st.integers(0, PEERS - 1))
def test_candidates_are_members_within_the_window_and_oneself(view: View, round: int, window: int, own: int) -> None:
    found = view.candidates(round, window, own).tolist()
    assert found == sorted(set(found))
    assert own in found
    for peer in set(range(PEERS)) - {own}:
        assert (peer in found) == bool(view.members()[peer] and view.active[peer] >= round - window)


@given(views(), views(), st.integers(0, 9))
def test_news_since_a_round_brings_one_who_knew_that_round_level(ahead: View, behind: View, since: int) -> None:
    """`behind` is made to know all that `ahead` heard until `since`; the news alone must do the rest."""
    told = {peer: since - 1 if peer % 2 else since + 1 for peer in range(PEERS)}
    ahead = relearned(ahead, told)
    known = merged(behind, until(ahead, max(since, 1)))  # of round 0 the plan tells
    peers, seen, rounds = ahead.news(since, now=9)
    level = known.copy()
    for peer in peers:
        level.learn(ahead.word(int(peer)))
    level.see(seen, rounds, now=9)
    assert level == merged(known, ahead)


def relearned(view: View, told: dict[int, int]) -> View:
    fresh = View(PEERS)
    for peer, round in told.items():
        if view.word(peer).counter:
            fresh.learn(view.word(peer), round)
    fresh.see(np.flatnonzero(view.active >= 0), view.active[view.active >= 0].astype(np.int64), 9)
    return fresh


def until(view: View, since: int) -> View:
    """What the view holds of before `since`."""
    earlier = View(PEERS)
    for peer in range(PEERS):
        if peer % 2 and view.word(peer).counter:
            earlier.learn(view.word(peer))
    old = (view.active >= 0) & (view.active < since)
    earlier.see(np.flatnonzero(old), view.active[old].astype(np.int64), 9)
    return earlier


def test_what_was_heard_outside_the_rounds_is_news_once_it_has_been_told() -> None:
    view = view_of(PEERS, [Word(peer, 1, False, 0) for peer in range(PEERS)])
    assert view.news(0, now=3)[0].tolist() == []
    view.learn(Word(2, 2, True, 0))
    assert view.news(since=8, now=8)[0].tolist() == [2], "heard while idle, told in round 8"
    assert view.news(since=8, now=9)[0].tolist() == [2]
    assert view.news(since=9, now=9)[0].tolist() == []


def test_what_the_plan_says_is_no_news() -> None:
    view = view_of(PEERS, [Word(peer, 1, False, 0) for peer in range(PEERS)])
    assert [found.tolist() for found in view.news(0, now=9)] == [[], [], []]
    see(view, [(3, 1)], now=9)
    assert [found.tolist() for found in view.news(0, now=9)] == [[], [3], [1]]


def test_a_first_view_knows_all_as_members_who_are_active() -> None:
    view = view_of(PEERS, [Word(peer, 1, False, peer) for peer in range(PEERS - 1)])
    assert view.members().tolist() == [True] * (PEERS - 1) + [False]
    assert view.candidates(10, 10, own=0).tolist() == [0, 1, 2, 3, 4]
    assert view.candidates(11, 10, own=5).tolist() == [5]


def test_views_are_no_keys() -> None:
    with pytest.raises(TypeError):
        hash(View(PEERS))
    assert View(PEERS) != 3
    assert len(View(PEERS)) == PEERS
