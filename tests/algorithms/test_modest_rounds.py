"""The rounds as a pure machine: what is known falls by a restart alone, and there is always something to wait for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.algorithms.modest_events import (
    AggregateCame,
    Ask,
    Asked,
    Average,
    Averaged,
    Delivered,
    Draw,
    Drawn,
    Elapsed,
    Event,
    Finish,
    GiveUp,
    LocalCame,
    Look,
    Looked,
    Progressed,
    Purpose,
    SendAggregate,
    SendLocal,
    Tell,
    Timer,
    Train,
    Trained,
    Wait,
)
from decentral.algorithms.modest_rounds import WAITS, Rules, State, begin, step

RULES = Rules(sample=4, aggregators=2, success=0.75, floor=2, rounds=9)
NEW = State(own=0)

rounds, peers = st.integers(0, 12), st.integers(0, 7)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(AggregateCame, rounds, st.booleans()),
    st.builds(Trained, rounds),
    st.builds(Drawn, st.sampled_from(Purpose), rounds, st.lists(peers, max_size=4, unique=True).map(tuple)),
    st.builds(LocalCame, rounds, peers, st.booleans()),
    st.builds(Delivered, rounds),
    st.builds(Averaged, rounds, st.frozensets(peers, max_size=3)),
    st.builds(Progressed, rounds),
    st.builds(Elapsed, st.sampled_from(Timer), rounds),
    st.builds(Looked, rounds, st.none() | peers),
    st.builds(Asked, peers),
)


def play(state: State, *happened: Event) -> tuple[State, list[object]]:
    effects: list[object] = []
    for event in happened:
        state, effects = step(state, event, RULES)  # type: ignore[assignment]
    return state, effects


@settings(max_examples=300)
@given(st.lists(events, max_size=40))
def test_any_events_in_any_order_keep_the_state_whole(happened: list[Event]) -> None:
    state, _ = begin(NEW, RULES, in_first_sample=True)
    for event in happened:
        before, (state, effects) = state, step(state, event, RULES)
        assert 0 <= state.held <= state.known <= RULES.rounds
        assert state.held >= before.held, "an aggregate that is held is never given up for an older one"
        assert state.collecting == 0 or state.collecting > state.held
        assert state.finished == (state.held == RULES.rounds)
        restarted = isinstance(event, (Looked, Asked)) or (isinstance(event, AggregateCame) and event.restart)
        assert state.known >= before.known or restarted
        for effect in effects:
            if isinstance(effect, Train):
                assert effect.round == state.held + 1 == state.begun
            if isinstance(effect, SendLocal):
                assert effect.round == state.owed and len(effect.to) <= RULES.aggregators
            if isinstance(effect, Average):
                assert effect.round == state.averaging and effect.senders
        assert sum(isinstance(effect, Finish) for effect in effects) == (state.finished and not before.finished)


@given(st.lists(events, max_size=30))
def test_who_has_not_finished_looks_around_in_the_end(happened: list[Event]) -> None:
    """Whatever happened, a timer of looking around leads to a look, and a look to another timer."""
    state, _ = begin(NEW, RULES, in_first_sample=False)
    for event in happened:
        state, _ = step(state, event, RULES)
    if not state.finished:
        assert step(state, Elapsed(Timer.LOOK, 0), RULES) == (state, [Look()])
        for seen in (Looked(0, None), Looked(5, 3), Looked(9, 3)):
            assert any(isinstance(effect, Wait) for effect in step(state, seen, RULES)[1])


def test_a_round_of_a_participant() -> None:
    state, effects = begin(NEW, RULES, in_first_sample=True)
    assert effects == [Train(1), Wait(Timer.LOOK, 0)]
    state, effects = play(state, Trained(1))
    assert effects == [Draw(Purpose.DELIVER, 2)]
    state, effects = play(state, Drawn(Purpose.DELIVER, 2, (5, 3, 0, 1)))
    assert effects == [SendLocal(1, (5, 3), resent=0), Wait(Timer.DELIVERED, 1)]
    state, effects = play(state, Progressed(1), Elapsed(Timer.DELIVERED, 1))
    assert effects == [] and state.owed == 0


def test_a_round_of_an_aggregator() -> None:
    state, effects = play(NEW, LocalCame(1, 2))
    assert effects == [Wait(Timer.COLLECT, 1)]
    state, effects = play(state, LocalCame(1, 2), LocalCame(1, 3), LocalCame(1, 0))
    assert effects == [Average(1, (0, 2, 3))], "three of four are enough; one that comes twice counts once"
    state, effects = play(state, Averaged(1))
    assert effects == [Draw(Purpose.SPREAD, 2)]
    state, effects = play(state, Drawn(Purpose.SPREAD, 2, (0, 6)))
    assert effects == [SendAggregate(1, (6,), restart=False), Wait(Timer.SPREAD, 1), Train(2)]
    state, effects = play(state, Delivered(1))
    assert effects == [Tell(1, (2, 3))], "not before somebody else has it: it must not die with us"
    assert play(state, Delivered(1))[1] == []
    assert step(state, LocalCame(1, 4), RULES)[1] == [Tell(1, (4,))], "who comes late is told"


def test_a_newer_round_interrupts_training_and_an_older_one_does_not() -> None:
    state, effects = play(NEW, AggregateCame(3), AggregateCame(5))
    assert Train(6) in effects
    assert play(state, AggregateCame(4))[1] == []
    assert play(state, Trained(4))[1] == []


def test_training_is_given_up_once_its_round_has_been_aggregated_without_it() -> None:
    state, _ = play(NEW, AggregateCame(3))
    assert state.begun == 4
    assert play(state, Progressed(3))[1] == []
    told, effects = play(state, Progressed(4))
    assert effects == [GiveUp()]
    assert GiveUp() not in play(told, Progressed(5))[1], "there is nothing left to give up"
    assert play(state, AggregateCame(4))[1][:2] == [GiveUp(), Train(5)]
    assert GiveUp() in play(state, Looked(6, 2))[1]


def test_who_is_too_slow_for_an_average_is_told_of_it_too() -> None:
    state, _ = play(NEW, LocalCame(1, 2), LocalCame(1, 3), LocalCame(1, 4), Averaged(1, frozenset({0, 2, 6})))
    assert play(state, Delivered(1))[1] == [Tell(1, (2, 3, 4, 6))]


def test_a_silent_aggregator_is_replaced_and_then_asked_again() -> None:
    state, _ = begin(NEW, RULES, in_first_sample=True)
    state, _ = play(state, Trained(1), Drawn(Purpose.DELIVER, 2, (5,)))
    state, effects = play(state, Elapsed(Timer.DELIVERED, 1))
    assert effects == [Draw(Purpose.DELIVER, 2)]
    state, effects = play(state, Drawn(Purpose.DELIVER, 2, (6,)))
    assert effects[0] == SendLocal(1, (6,), resent=1)
    _, effects = play(state, Elapsed(Timer.DELIVERED, 1), Drawn(Purpose.DELIVER, 2, (6,)))
    assert effects[0] == SendLocal(1, (6,), resent=2)
    assert step(NEW, LocalCame(1, 4, again=True), RULES)[1] == [Wait(Timer.HURRY, 1)], "it has been waited for once"


def test_patience_ends_with_the_floor_and_below_it_after_some_more() -> None:
    state, _ = play(NEW, LocalCame(1, 2), LocalCame(1, 3))
    assert play(state, Elapsed(Timer.COLLECT, 1))[1] == [Average(1, (2, 3))]
    state, effects = play(NEW, LocalCame(1, 2))
    for _ in range(WAITS - 1):
        state, effects = play(state, Elapsed(Timer.COLLECT, 1))
        assert effects == [Wait(Timer.COLLECT, 1)]
    assert play(state, Elapsed(Timer.COLLECT, 1))[1] == [Average(1, (2,))]


def test_who_sees_twice_that_nothing_moves_has_the_newest_aggregate_spread_again() -> None:
    held, _ = play(NEW, AggregateCame(3))
    once, effects = play(held, Looked(3, 2))
    assert effects == [Wait(Timer.LOOK_AGAIN, 3)]
    assert play(once, Looked(3, 2))[1][0] == Draw(Purpose.SPREAD, 4), "nobody is further"
    ahead, _ = play(held, Progressed(5), Looked(5, 2))
    assert play(ahead, Looked(5, 2))[1][0] == Ask(2), "somebody is"
    lost, effects = play(ahead, Looked(3, 2))
    assert lost.known == 3 and effects[0] == Draw(Purpose.SPREAD, 4), "who was further is gone"
    assert play(once, Looked(4, 2))[0].doubt is False, "something has moved"


def test_a_restart_makes_those_train_again_whose_work_was_lost() -> None:
    state, _ = play(NEW, AggregateCame(3), Trained(4), Progressed(4))
    assert play(state, AggregateCame(3))[1] == []
    assert Train(4) in play(state, AggregateCame(3, restart=True))[1]


def test_the_last_aggregate_ends_it_and_is_given_to_who_asks() -> None:
    state, effects = play(NEW, AggregateCame(9))
    assert effects == [Finish()]
    assert play(state, Asked(4))[1] == [SendAggregate(9, (4,), restart=True)]
    assert play(state, LocalCame(9, 4))[1] == [Tell(9, (4,))]
    assert begin(State(own=0, held=4, known=4, begun=4), RULES, in_first_sample=True)[1] == [Look()]
    assert begin(State(own=0, held=9, known=9, begun=9), RULES, in_first_sample=True)[1] == [Finish()]


@pytest.mark.parametrize("event", [AggregateCame(10), LocalCame(10, 1), Averaged(10), Progressed(10), Looked(10, None)])
def test_rounds_that_the_recipe_does_not_have_are_never_reached(event: Event) -> None:
    assert step(NEW, event, RULES)[0].held == 0
    assert step(NEW, event, RULES)[0].known <= RULES.rounds
