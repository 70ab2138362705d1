"""The rounds of MoDeST as a pure function: (state, event) -> (state, effects). No clock, no messages, no torch.

In round k the participants, the sample S_k, train on aggregate k - 1 (aggregate 0 is the common first model) and send
what comes out to the aggregators of the round, the first few of S_{k+1}. These average and send aggregate k to
S_{k+1}, whose members train in round k + 1 (MoDeST, arXiv 2302.13837, algorithms 2 to 4; here a model has the number of
the round that it is the result of). The highest round that anybody has seen wins.

What keeps it alive where the paper's peers wait:
- a participant that hears nothing of its round's aggregate draws its sample again, without those who died meanwhile,
  and sends its model to whoever aggregates now;
- an aggregator averages what it has when its patience is over, and draws those to whom its aggregate went again as
  long as it hears of no newer round;
- everybody looks around now and then; who sees twice that nothing moved asks who holds the newest aggregate for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from decentral.algorithms.modest_events import (
    AggregateCame,
    Ask,
    Asked,
    Average,
    Averaged,
    Delivered,
    Draw,
    Drawn,
    Effect,
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

WAITS = 3
"""Patiences that an aggregator with fewer models than the floor waits, before it goes on with what it has."""


@dataclass(frozen=True, slots=True)
class Rules:
    """s, a, sf of the paper; `floor`: models below which an aggregator waits longer; the last round."""

    sample: int
    aggregators: int
    success: float
    floor: int
    rounds: int

    def enough(self, alive: int) -> int:
        """Models with which an aggregator does not wait for more, where a sample finds `alive` peers at most."""
        return max(1, math.ceil(self.success * min(self.sample, alive)))


@dataclass(frozen=True, slots=True)
class State:
    """Where one peer stands. Rounds count from 1; aggregate 0 is the common first model."""

    own: int
    held: int = 0
    """The newest aggregate that we hold."""
    known: int = 0
    """The newest that we know to exist."""
    begun: int = 0
    """The latest round for which we began to train."""
    owed: int = 0
    """The round whose local model we answer for; 0: none."""
    resent: int = 0
    """How often we have waited for it in vain."""
    collecting: int = 0
    """The round whose models we collect; 0: none."""
    senders: frozenset[int] = field(default_factory=frozenset)
    waited: int = 0
    untold: frozenset[int] = field(default_factory=frozenset)
    """Who took part in our aggregate, and does not know of it: they are told when somebody else has it too."""
    alive: int = sys.maxsize
    """How many peers the last sample found: fewer than it wants when few are left."""
    averaging: int = 0
    """The round that is being averaged; 0: none."""
    doubt: bool = False
    """Whether the last look saw nothing new."""
    finished: bool = False


Step = tuple[State, list[Effect]]


def begin(state: State, rules: Rules, in_first_sample: bool) -> Step:
    """The start of a peer. In a new run the first sample trains without a message; who comes back looks around."""
    if state.held >= rules.rounds:
        return replace(state, finished=True), [Finish()]
    if in_first_sample and state.held == 0:
        state, effects = _train(state)
        return state, [*effects, Wait(Timer.LOOK, 0)]
    return state, [Look()] if state.held else [Wait(Timer.LOOK, 0)]


def step(state: State, event: Event, rules: Rules) -> Step:
    """What an event changes, and what is to be done. After the end nothing but answers to those who ask."""
    if state.finished and not isinstance(event, (LocalCame, Asked)):
        return state, []
    handler: Callable[[State, Any, Rules], Step] = _HANDLERS[type(event)]
    after, effects = handler(state, event, rules)
    overtaken = state.known < state.begun <= after.known
    return after, [GiveUp(), *effects] if overtaken else effects


def _train(state: State) -> Step:
    """The round after the aggregate that we hold."""
    round = state.held + 1
    return replace(state, begun=round, owed=0, resent=0), [Train(round)]


def _progressed(state: State, round: int) -> State:
    known = max(state.known, round)
    owed = state.owed if state.owed > known else 0
    return replace(state, known=known, owed=owed, doubt=state.doubt and known == state.known)


def _held(state: State, round: int) -> State:
    """We hold aggregate `round`, so older collections are void."""
    state = replace(_progressed(state, round), held=round)
    if state.collecting <= round:
        state = replace(state, collecting=0, senders=frozenset(), waited=0, averaging=0)
    return state


def _aggregate_came(state: State, event: AggregateCame, rules: Rules) -> Step:
    round = event.round
    if not state.held <= round <= rules.rounds:
        return state, []
    if event.restart:
        state = replace(state, known=round, begun=min(state.begun, round))
    state = _held(state, round)
    if round == rules.rounds:
        return replace(state, finished=True), [Finish()]
    if max(state.begun - 1, state.known) > round:
        return state, []  # begun already, or others are further on: training on it would be for nothing
    state, effects = _train(state)
    return state, [*effects, Wait(Timer.LOOK, round)]


def _trained(state: State, event: Trained, rules: Rules) -> Step:
    if event.round != state.begun or event.round <= state.known:
        return state, []
    return replace(state, owed=event.round, resent=0), [Draw(Purpose.DELIVER, event.round + 1)]


def _drawn(state: State, event: Drawn, rules: Rules) -> Step:
    state = replace(state, alive=len(event.sample))
    if event.purpose is Purpose.DELIVER:
        if state.owed != event.round - 1:
            return state, []
        send = SendLocal(state.owed, event.sample[: rules.aggregators], state.resent)
        return state, [send, Wait(Timer.DELIVERED, state.owed)]
    if state.held != event.round - 1 or state.known > state.held:
        return state, []
    others = tuple(peer for peer in event.sample if peer != state.own)
    effects: list[Effect] = [SendAggregate(state.held, others, restart=state.doubt), Wait(Timer.SPREAD, state.held)]
    if state.own in event.sample and state.begun < event.round:
        state, train = _train(state)
        effects += train
    return state, effects


def _local_came(state: State, event: LocalCame, rules: Rules) -> Step:
    round = event.round
    if round <= state.known:
        return state, [Tell(state.known, (event.sender,))]
    if round > rules.rounds or round < state.collecting or round == state.averaging:
        return state, []
    effects: list[Effect] = []
    if round > state.collecting:
        state = replace(state, collecting=round, senders=frozenset(), waited=0)
        effects.append(Wait(Timer.HURRY if event.again else Timer.COLLECT, round))
    state = replace(state, senders=state.senders | {event.sender})
    return _average(state) if len(state.senders) >= rules.enough(state.alive) else (state, effects)


def _average(state: State) -> Step:
    return replace(state, averaging=state.collecting), [Average(state.collecting, tuple(sorted(state.senders)))]


def _averaged(state: State, event: Averaged, rules: Rules) -> Step:
    round = event.round
    if round != state.averaging or round <= state.held:
        return state, []
    untold = (state.senders | event.drawn) - {state.own}
    state = replace(_held(state, round), untold=untold)
    if round == rules.rounds:
        return replace(state, finished=True), [Finish()]
    return state, [Draw(Purpose.SPREAD, round + 1)]


def _delivered(state: State, event: Delivered, rules: Rules) -> Step:
    if event.round != state.held or not state.untold:
        return state, []
    return replace(state, untold=frozenset()), [Tell(event.round, tuple(sorted(state.untold)))]


def _told(state: State, event: Progressed, rules: Rules) -> Step:
    return _progressed(state, min(event.round, rules.rounds)), []


def _elapsed(state: State, event: Elapsed, rules: Rules) -> Step:
    round = event.round
    match event.timer:
        case Timer.COLLECT | Timer.HURRY if round == state.collecting != state.averaging:
            floor = min(rules.floor, rules.enough(state.alive))
            if len(state.senders) >= floor or state.waited + 1 >= WAITS:
                return _average(state)
            return replace(state, waited=state.waited + 1), [Wait(Timer.COLLECT, round)]
        case Timer.DELIVERED if round == state.owed:
            return replace(state, resent=state.resent + 1), [Draw(Purpose.DELIVER, round + 1)]
        case Timer.SPREAD if round == state.held == state.known:
            return state, [Draw(Purpose.SPREAD, round + 1)]
        case Timer.LOOK | Timer.LOOK_AGAIN:
            return state, [Look()]
    return state, []


def _looked(state: State, event: Looked, rules: Rules) -> Step:
    round, again = min(event.round, rules.rounds), Wait(Timer.LOOK_AGAIN, state.known)
    if round > state.known:
        state = _progressed(state, round)
        if round == rules.rounds and event.holder is not None:
            return state, [Ask(event.holder), again]
        return state, [Wait(Timer.LOOK, round)]
    if not state.doubt:
        return replace(state, doubt=True), [again]
    if event.holder is not None and round > state.held:
        return state, [Ask(event.holder), again]
    # Nobody within reach is further than we are: what was known to be newer died with those who held it.
    state = replace(state, known=state.held, begun=min(state.begun, state.held))
    return state, [Draw(Purpose.SPREAD, state.held + 1), again]


def _asked(state: State, event: Asked, rules: Rules) -> Step:
    if state.finished:
        return state, [SendAggregate(state.held, (event.sender,), restart=True)]
    state = replace(state, doubt=True, known=state.held, begun=min(state.begun, state.held))
    return state, [Draw(Purpose.SPREAD, state.held + 1)]


_HANDLERS: dict[type[Event], Callable[[State, Any, Rules], Step]] = {
    AggregateCame: _aggregate_came,
    Trained: _trained,
    Drawn: _drawn,
    LocalCame: _local_came,
    Averaged: _averaged,
    Delivered: _delivered,
    Progressed: _told,
    Elapsed: _elapsed,
    Looked: _looked,
    Asked: _asked,
}
