"""Registers say what was measured into each of them, and in which order; the log cannot say anything else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from decentral import canonical
from decentral.attestation.registers import MAX_EVENTS, MAX_LOG, REGISTERS, ZERO, Event, EventLog, extend
from decentral.attestation.report import Flaw, NotGenuine

names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=8)
events = st.builds(Event.of, st.integers(0, REGISTERS - 1), names, st.binary(max_size=2))
logs = st.lists(events, max_size=6).map(lambda some: EventLog(tuple(some)))
filled = st.lists(events, min_size=1, max_size=6).map(lambda some: EventLog(tuple(some)))


def of_register(log: EventLog, register: int) -> list[Event]:
    return [event for event in log.events if event.register == register]


def test_a_register_is_the_digest_of_what_it_was_and_what_came() -> None:
    digest = bytes(range(48))
    assert extend(ZERO, digest) == hashlib.sha384(bytes(48) + digest).digest()
    assert extend(extend(ZERO, digest), ZERO) == hashlib.sha384(extend(ZERO, digest) + bytes(48)).digest()
    for wrong in ((ZERO[1:], digest), (ZERO, digest + b"\0"), (ZERO, b"")):
        with pytest.raises(ValueError, match="48 bytes"):
            extend(*wrong)


def test_nothing_measured_leaves_zeros() -> None:
    assert EventLog().replay() == (ZERO,) * REGISTERS


@given(logs, events)
def test_an_event_extends_its_register_and_no_other(log: EventLog, event: Event) -> None:
    before, after = log.replay(), log.extended(event).replay()
    for register in range(REGISTERS):
        if register == event.register:
            assert after[register] == extend(before[register], event.extension)
        else:
            assert after[register] == before[register]


@given(logs, logs)
def test_registers_are_equal_where_the_same_was_measured_in_the_same_order_and_only_there(
    one: EventLog, other: EventLog
) -> None:
    for register, (first, second) in enumerate(zip(one.replay(), other.replay(), strict=True)):
        assert (first == second) == (of_register(one, register) == of_register(other, register))


@given(filled, st.data())
def test_no_event_can_be_removed(log: EventLog, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log.events) - 1))
    without = EventLog(log.events[:place] + log.events[place + 1 :])
    assert without.differing(log.replay()) == (log.events[place].register,)


@given(filled, events, st.data())
def test_no_event_can_be_changed_or_added(log: EventLog, event: Event, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log.events) - 1))
    assume(event != log.events[place])
    for other in (
        EventLog((*log.events[:place], event, *log.events[place + 1 :])),
        EventLog((*log.events[:place], event, *log.events[place:])),
    ):
        assert event.register in other.differing(log.replay())
        assert other.digest != log.digest


@given(filled, names)
def test_no_event_can_be_renamed(log: EventLog, name: str) -> None:
    first, *rest = log.events
    assume(name != first.name)
    renamed = EventLog((Event(first.register, name, first.digest), *rest))
    assert renamed.differing(log.replay()) == (first.register,)


@given(st.lists(events, min_size=2, max_size=6, unique=True))
def test_no_two_events_of_a_register_can_change_places_and_the_digest_tells_of_any_two(some: list[Event]) -> None:
    log, swapped = EventLog(tuple(some)), EventLog((some[-1], *some[1:-1], some[0]))
    assert log.digest != swapped.digest
    if some[0].register == some[-1].register:
        assert some[0].register in swapped.differing(log.replay())


def test_where_a_name_ends_and_a_content_begins_is_measured_too() -> None:
    digest = hashlib.sha384(b"").digest()
    assert Event(0, "model", digest).extension != Event(0, "mode", b"l" + digest[:-1]).extension


@given(logs)
def test_a_log_leads_to_its_own_registers_and_to_no_other_number_of_them(log: EventLog) -> None:
    assert log.differing(log.replay()) == ()
    assert log.differing(log.replay()[:-1]) == log.differing(()) == (0, 1, 2, 3)
    assert log.differing([*log.replay()[:-1], b"\1" * 48]) == (3,)


def test_an_event_is_found_by_its_name_unless_somebody_repeated_it() -> None:
    model, other = Event.of(3, "model", b"a"), Event.of(3, "model", b"b")
    log = EventLog().extended(Event.of(2, "model", b"c")).extended(model)
    assert log.named("model", 3) == model
    assert log.named("model", 1) is log.named("code", 3) is log.extended(other).named("model", 3) is None


@given(logs)
def test_what_is_written_is_read_again(log: EventLog) -> None:
    assert EventLog.parse(log.encoded()) == log


@given(filled, st.data())
def test_a_bit_that_changes_is_refused_or_leads_elsewhere(log: EventLog, data: st.DataObject) -> None:
    written = bytearray(log.encoded())
    place = data.draw(st.integers(0, 8 * len(written) - 1))
    written[place // 8] ^= 1 << place % 8
    try:
        other = EventLog.parse(bytes(written))
    except NotGenuine as error:
        assert error.flaw is Flaw.EVENTS
    else:
        assert other.differing(log.replay()) != () and other.digest != log.digest


DIGEST = canonical.text(ZERO)
LIES = {
    "no JSON": b"[",
    "a space": canonical.encode([[0, "a", DIGEST]]).replace(b",", b", "),
    "a mapping": canonical.encode({}),
    "a register that there is not": canonical.encode([[4, "a", DIGEST]]),
    "a register below zero": canonical.encode([[-1, "a", DIGEST]]),
    "a truth for a register": canonical.encode([[True, "a", DIGEST]]),
    "a float for a register": canonical.encode([[1.0, "a", DIGEST]]),
    "no name": canonical.encode([[0, "", DIGEST]]),
    "a long name": canonical.encode([[0, "a" * 101, DIGEST]]),
    "a name that moves the cursor": canonical.encode([[0, "a\x1b[A", DIGEST]]),
    "a name that looks like another": canonical.encode([[0, "m\u043edel", DIGEST]]),
    "half of a surrogate pair": canonical.encode([[0, "\ud800", DIGEST]]),
    "a short digest": canonical.encode([[0, "a", canonical.text(ZERO[1:])]]),
    "no digest": canonical.encode([[0, "a", None]]),
    "one thing more": canonical.encode([[0, "a", DIGEST, 1]]),
    "too many events": canonical.encode([[0, "a", DIGEST]] * (MAX_EVENTS + 1)),
    "too many bytes": b" " * (MAX_LOG + 1),
    "deep": b"[" * 10_000,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_is_no_log_is_refused(lie: bytes) -> None:
    with pytest.raises(NotGenuine) as caught:
        EventLog.parse(lie)
    assert caught.value.flaw is Flaw.EVENTS


def test_a_log_that_is_full_is_read_and_takes_no_more() -> None:
    full = EventLog((Event(3, "n" * 100, ZERO),) * MAX_EVENTS)
    assert EventLog.parse(full.encoded()) == full
    with pytest.raises(NotGenuine, match="1024 are read"):
        full.extended(Event(0, "a", ZERO))
