"""Lessons add up to the paper's bandit, on disk as in memory, whoever else learns meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.bandit import features
from decentral.errors import UserError
from decentral.serving.selection.experience import DISCOUNT, FEATURES, SMOOTHING, Experience, Lesson, Track, taught
from decentral.serving.selection.ledger import FILE, Ledger
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId

PEERS = tuple(Identity.from_seed(name.encode()).id for name in "abc")
A, B, C = PEERS


def lesson(seed: int, peer: PeerId = A, together: tuple[PeerId, ...] = PEERS) -> Lesson:
    rng = np.random.default_rng(seed)
    seconds = None if seed % 5 == 4 else float(rng.uniform(0, 2))
    return Lesson(peer, together, features(*map(float, rng.uniform(0, 1, 4))), float(rng.uniform()), seconds)


def same(one: Track, other: Track) -> bool:
    arms = np.allclose(one.arm.a, other.arm.a) and np.allclose(one.arm.b, other.arm.b)
    return arms and one.arm.ridge == other.arm.ridge and (one.latency, one.seen) == (other.latency, other.seen)


def learned(lessons: Sequence[Lesson], discount: float = DISCOUNT) -> dict[PeerId, Track]:
    tracks: dict[PeerId, Track] = {}
    for each in lessons:
        tracks = taught(tracks, each, discount)
    return tracks


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(PEERS)), max_size=12), st.floats(0.5, 1))
def test_an_arm_is_the_discounted_regression_on_its_own_lessons(given_: list[tuple[int, PeerId]], gamma: float) -> None:
    tracks = learned([lesson(*each) for each in given_], gamma)
    for peer in PEERS if given_ else ():
        expected = Track.new().arm
        for each in (lesson(*one) for one in given_):
            expected = expected.faded(gamma)
            expected = expected.learned(each.context, each.reward) if each.peer == peer else expected
        np.testing.assert_allclose(tracks[peer].arm.a, expected.a)
        np.testing.assert_allclose(tracks[peer].arm.b, expected.b)


def test_only_replicas_of_one_part_fade_together() -> None:
    before = learned([lesson(0, C, (C,))])
    after = taught(before, lesson(1, A, (A, B)))
    assert after[C] is before[C]
    assert {A, B, C} == after.keys()


def test_the_usual_latency_follows_the_newest_and_an_answer_that_did_not_come_has_none() -> None:
    def took(seconds: float | None) -> Lesson:
        return Lesson(A, (A,), features(0.0, 0.0, 0.0, 0.0), 0.5, seconds)

    assert (learned([took(None)])[A].latency, learned([took(None)])[A].seen) == (0.0, 0.0)
    assert learned([took(None), took(2.0)])[A].latency == 2.0
    assert learned([took(2.0), took(4.0)])[A].latency == pytest.approx(2 + 2 / (1 + (1 - SMOOTHING) * DISCOUNT))
    assert learned([took(2.0), took(None)])[A].latency == 2.0
    assert learned([took(10.0), *[took(1.0)] * 20])[A].latency == pytest.approx(1.0, abs=0.01)


def test_what_was_seen_long_ago_counts_for_little() -> None:
    took = [Lesson(A, (A, B), features(0.0, 0.0, 0.0, 0.0), 0.5, 10.0)] * 5
    others = [Lesson(B, (A, B), features(0.0, 0.0, 0.0, 0.0), 0.5, 1.0)] * 500
    before, after = learned(took)[A], learned([*took, *others])[A]
    assert (before.latency, after.latency) == (10.0, 10.0)
    assert before.seen > 2 > 0.1 > after.seen
    assert after.answered(1.0).latency < 1.2, "the first answer after that counts as if it were the first"


def test_what_was_learned_is_there_after_reopening(tmp_path: Path) -> None:
    lessons = [lesson(seed, PEERS[seed % 3]) for seed in range(12)]
    with Ledger.open(tmp_path / FILE) as ledger:
        experience = Experience(ledger)
        assert experience.learn(()) == {}
        experience.learn(lessons[:5])
        now = experience.learn(lessons[5:])
    with Ledger.open(tmp_path / FILE) as ledger:
        found = Experience(ledger).learn(())
    expected = learned(lessons)
    assert found.keys() == expected.keys() == now.keys()
    assert all(same(found[peer], expected[peer]) and same(now[peer], expected[peer]) for peer in PEERS)


def test_who_learns_beside_another_process_adds_to_what_that_has_learned(tmp_path: Path) -> None:
    lessons = [lesson(seed, PEERS[seed % 3]) for seed in range(12)]
    with Ledger.open(tmp_path / FILE) as one, Ledger.open(tmp_path / FILE) as other:
        mine, theirs = Experience(one, 1.0), Experience(other, 1.0)
        assert mine.learn(()) == theirs.learn(()) == {}
        mine.learn(lessons[:4])
        theirs.learn(lessons[4:9])
        found = mine.learn(lessons[9:])
    expected = learned(lessons, 1.0)
    assert all(same(found[peer], expected[peer]) for peer in PEERS)


def test_numbers_that_nobody_can_have_learned_are_damage(tmp_path: Path) -> None:
    good = (np.eye(FEATURES).tobytes(), np.zeros(FEATURES).tobytes(), 1.0, 0.5, 2.0)
    bad = ((0, b"short"), (0, np.full((5, 5), np.nan).tobytes()), (0, np.zeros((5, 5)).tobytes()), (1, "text"))
    with Ledger.open(tmp_path / FILE) as ledger:
        for place, value in (*bad, (2, 0.0), (3, -1.0), (3, "soon"), (4, -1.0)):
            row = [*good[:place], value, *good[place + 1 :]]
            with ledger.writing() as connection:
                connection.execute("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?)", (A, *row))
            with pytest.raises(UserError, match="is damaged"):
                Experience(ledger).learn([lesson(0)])
        with ledger.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?)", (A, *good))
        assert Experience(ledger).learn(())[A].latency == 0.5
