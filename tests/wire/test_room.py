"""Whoever takes all it can leaves room for the next, and nothing is lost or made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decentral.wire.messages import PeerId
from decentral.wire.room import SHARE, Room

A, B, C = (PeerId(letter * 52) for letter in "abc")


def filled(room: Room, client: PeerId, size: int) -> int:
    """How many of this size it was given until it was refused."""
    given = 0
    while room.take(size, client):
        given += 1
    return given


def test_one_alone_gets_a_fifth_and_those_who_come_later_a_fifth_of_what_it_leaves() -> None:
    room = Room(1000)
    assert filled(room, A, 1) == 200
    assert filled(room, B, 1) == 160
    for _ in range(200):
        room.give_back(1, A)
    assert filled(room, A, 1) == 168, "a fifth of the 840 that B leaves"


def test_who_holds_nothing_may_take_all_there_is_at_once() -> None:
    room = Room(1000)
    assert not room.take(1001, A)
    assert room.take(1000, A)
    assert not room.take(1, B)
    room.give_back(1000, A)
    assert room.take(1000, B)


@given(st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(0, 40), st.booleans()), max_size=200))
def test_more_than_there_is_is_never_held_and_all_that_is_given_back_is_there_again(steps) -> None:
    room, held = Room(100), {client: list[int]() for client in (A, B, C)}
    for client, size, returns in steps:
        if returns and held[client]:
            room.give_back(held[client].pop(), client)
            continue
        left = 100 - sum(map(sum, held.values())) - size
        fits = left >= 0 and left >= SHARE * sum(held[client])
        assert room.take(size, client) is fits
        if fits:
            held[client].append(size)
    for client, sizes in held.items():
        for size in sizes:
            room.give_back(size, client)
    assert room.take(100, C)


def test_who_holds_nothing_finds_room_beside_ten_who_take_all_they_can() -> None:
    room = Room(1 << 30)
    for number in range(10):
        filled(room, PeerId(f"{number:052}"), 1 << 20)
    assert room.take(64 << 20, A)
