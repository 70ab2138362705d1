"""What an aggregator makes of its clients' models, and what outlives the round."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from decentral.algorithms.aggregator import AVERAGE, Aggregator
from decentral.core.encodings import Int8, Plain, TopK
from decentral.core.outer import Nesterov
from decentral.core.rules import Mean, Median
from decentral.wire.messages import Model


async def at_once(fn, seconds):
    return fn()


def state(*values):
    return {"w": torch.tensor([values], dtype=torch.float64), "b": torch.tensor(values)}


def peer_with(**options):
    made = SimpleNamespace(
        index=0, rule=Mean(), encoding=Plain(), outer=None, memory={}, layout=SimpleNamespace(seed=0), events=[]
    )
    made.clock = SimpleNamespace(now=lambda: 0.0, work=at_once)
    made.learner = SimpleNamespace(parameters=lambda: state(1.0, 1.0))
    made.journal = SimpleNamespace(record=lambda event, **fields: made.events.append((event, fields)))
    made.phase = lambda round, phase: None
    vars(made).update(options)
    return made


MODELS = {2: Model(4, state(1.0, 0.0), samples=30), 5: Model(4, state(5.0, 4.0), samples=10)}


async def test_models_weigh_by_their_samples_and_the_journal_says_so():
    peer = peer_with()
    letter, average = await Aggregator(peer).make(4, MODELS, state(0.0, 0.0))
    assert average.tensors["w"].tolist() == letter.tensors["w"].tolist() == [[2.0, 1.0]]
    assert (average.round, average.samples, average.tag) == (4, 40, AVERAGE)
    [(event, fields)] = peer.events
    assert event == "merged" and fields["weights"] == {2: 0.75, 5: 0.25}


async def test_what_the_aggregator_goes_on_from_is_what_the_others_read():
    letter, average = await Aggregator(peer_with(encoding=Int8())).make(4, MODELS, state(0.0, 0.0))
    again, same = await Aggregator(peer_with(encoding=Int8())).make(4, {0: average}, average.tensors)
    assert letter.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(tensor, same.tensors[name]) for name, tensor in average.tensors.items())


async def test_a_rule_that_has_too_few_models_keeps_the_trusted_one():
    _, average = await Aggregator(peer_with(rule=Median())).make(4, MODELS, state(7.0, 8.0))
    assert average.tensors["w"].tolist() == [[7.0, 8.0]]


@pytest.mark.parametrize(
    ("options", "useful"),
    [({}, False), ({"encoding": Int8()}, False), ({"encoding": TopK()}, True), ({"outer": Nesterov()}, True)],
)
async def test_the_last_average_is_kept_where_there_is_a_use_for_it(options, useful):
    keeper = Aggregator(peer_with(**options))
    await keeper.recall(1)
    assert keeper.useful is useful and (keeper.last is not None) is useful


async def test_who_missed_an_average_goes_on_from_none():
    keeper = Aggregator(peer_with(outer=Nesterov()))
    keeper.follow(3, state(1.0, 1.0))
    assert keeper.held == 3
    await keeper.recall(4)
    assert keeper.last is not None
    await keeper.recall(5)
    assert keeper.last is None


async def test_the_step_leads_from_the_last_average_with_the_momentum_that_was_followed():
    keeper = Aggregator(peer_with(outer=Nesterov(0.5, 0.0)))
    keeper.follow(3, state(1.0, 1.0))
    await keeper.recall(4)
    _, average = await keeper.make(4, MODELS, state(0.0, 0.0))
    assert average.tensors["w"].tolist() == [[1.5, 1.0]]
