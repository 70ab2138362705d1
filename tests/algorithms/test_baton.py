"""An outer optimiser over rounds with another aggregator each: its memory is handed on, or it begins again."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import pytest
import torch

from decentral.algorithms.baton import LAST, TRAIL, Baton, packed_with_baton, read_with_baton, with_baton
from decentral.algorithms.modest import MoDeST
from decentral.algorithms.packing import as_read
from decentral.core.encodings import ENCODINGS
from decentral.core.outer import Nesterov
from decentral.wire.elements import schema_hash
from decentral.wire.messages import Model

RATE, MOMENTUM = 0.7, 0.6


def walk(rounds):
    """Where SGD with Nesterov's momentum stands after so many averages, each one ahead of the model."""
    last = trail = 0.0
    for _ in range(rounds):
        here = last + RATE
        last, trail = here + MOMENTUM * (here - trail), here
    return last


@pytest.fixture
def crowd(world):
    def build(rounds, outer, **options):
        stage = world(7, MoDeST, rounds=rounds, outer=outer, **options)
        for learner in stage.learners:
            learner.value.zero_()
        return stage

    return build


def test_every_aggregator_goes_on_with_the_momentum_of_the_one_before(crowd):
    played = crowd(12, Nesterov(RATE, MOMENTUM)).play()
    assert len(set(played.values)) == 1
    assert played.values[0] == pytest.approx(walk(12))


def test_a_round_costs_two_models_more(crowd):
    """Of eight numbers each, in rounds 2 to 12: in the first everybody has the first model."""
    sizes = []
    for outer in (None, Nesterov(RATE, MOMENTUM)):
        played = crowd(12, outer).play()
        sizes.append(sum(journal.of("round")[-1]["bytes"]["model"] for journal in played.journals.values()))
    named = len("@last/value" + "@trail/value")
    assert 11 * (16 + named) < sizes[1] - sizes[0] < 11 * (16 + named + 40)


@pytest.mark.parametrize("at", [1.02, 2.3, 3.05, 3.5, 4.1, 5.2])
def test_a_maker_that_dies_takes_the_momentum_with_it_and_nothing_else(crowd, at):
    async def script(stage):
        await asyncio.sleep(at)
        [maker] = [index for index, peer in stage.peers.items() if peer.crowd.round == newest(stage)][:1]
        await stage.crash(maker)
        del stage.tasks[maker]
        stage.dead = maker

    def newest(stage):
        return max(peer.crowd.round for peer in stage.peers.values())

    played = crowd(8, Nesterov(RATE, MOMENTUM)).play(script)
    ended = {played.values[index] for index in range(7) if index != played.dead}
    assert len(ended) == 1
    assert walk(8) * 0.3 < ended.pop() <= walk(8) + 1e-9


# ---- on the wire ----------------------------------------------------------------------------------------------------


def state(seed):
    draw = torch.Generator().manual_seed(seed)
    drawn = {"w": torch.randn(6, 9, generator=draw), "b": torch.randn(6, generator=draw)}
    return {**drawn, "n": torch.tensor(seed)}


def peer_with(name):
    return SimpleNamespace(index=1, layout=SimpleNamespace(seed=0), encoding=ENCODINGS.construct(name))


def letter(peer, baton=None):
    packed = peer.encoding.whole(state(1), state(1), torch.Generator().manual_seed(0))
    model = Model(3, packed, samples=9)
    return model if baton is None else with_baton(peer, model, baton)


@pytest.mark.parametrize("name", ["none", "bfloat16", "int8"])
def test_what_is_handed_on_arrives_and_the_aggregate_to_the_last_bit(name):
    peer = peer_with(name)
    last = as_read(peer, Model(2, state(2), tag="average"))
    trail = {key: tensor for key, tensor in state(3).items() if tensor.is_floating_point()}
    model, baton = read_with_baton(letter(peer, Baton(last, trail)), state(0))
    assert (model.round, model.samples) == (3, 9) and torch.allclose(model.tensors["w"], state(1)["w"], atol=0.05)
    assert all(torch.equal(tensor, last[key]) for key, tensor in baton.last.items())
    assert torch.allclose(baton.trail["w"], trail["w"], atol=0.05)
    assert read_with_baton(letter(peer), state(0))[1] is None


@pytest.mark.parametrize("name", ["none", "bfloat16", "int8"])
def test_the_form_of_such_messages_is_known_before_there_is_one(name):
    peer = peer_with(name)
    for baton in (Baton(state(2), state(3)), Baton(state(2))):
        known = packed_with_baton(letter(peer).tensors, trail=bool(baton.trail))
        assert schema_hash(known) == schema_hash(letter(peer, baton).tensors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({f"{LAST}w": torch.full((6, 9), math.nan)}, "a baton that cannot be read: not finite"),
        ({f"{TRAIL}w": torch.full((6, 9), math.inf)}, "a baton that cannot be read: not finite"),
        ({f"{TRAIL}w": torch.ones(9, 6)}, "a baton that cannot be read: w of another shape"),
        ({f"{LAST}other": torch.ones(2)}, "a baton that cannot be read: tensors that the model does not have"),
        ({"w": torch.full((6, 9), math.nan)}, "not finite"),
        ({"@other/w": torch.ones(6, 9)}, "tensors that the model does not have"),
    ],
)
def test_a_baton_that_is_a_lie_is_no_baton_and_neither_is_its_bearer_taken(change, reason):
    honest = letter(peer_with("none"), Baton(state(2), state(3)))
    lie = Model(3, {**honest.tensors, **change})
    assert read_with_baton(lie, state(0)) == reason
    without = {key: tensor for key, tensor in honest.tensors.items() if not key.startswith(LAST)}
    assert read_with_baton(Model(3, without), state(0)) == "a baton that cannot be read: no tensor w"
