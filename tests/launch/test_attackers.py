"""Who lies is the recipe's to say; around the lie everything is as at an honest peer."""

from __future__ import annotations

import torch

from decentral.algorithms.presence import Member, Roster
from decentral.core.encodings import ENCODINGS
from decentral.launch.assembly import assemble_learner, own_learner
from decentral.launch.attackers import as_told, attack_of, lying
from decentral.run.recipe import load_recipe
from decentral.training.attacks import AttackingLearner
from decentral.wire.identity import Identity
from decentral.wire.memory import MemoryNetwork
from decentral.wire.messages import Model

LIARS = ("peers=3", "model={name: mlp, hidden: [8]}", "attack={name: sign-flip, peers: [1], scale: 2.0}")


def test_an_honest_peer_has_no_attack_and_its_learner_is_its_own():
    recipe = load_recipe("dimat-digits", LIARS)
    assert [attack_of(recipe, index) is None for index in range(3)] == [True, False, True]
    assert attack_of(load_recipe("dimat-digits", LIARS[:2]), 1) is None
    learner = own_learner(recipe, 0)
    assert as_told(recipe, 0, learner) is learner


def test_a_liars_learner_is_an_honest_one_inside_another():
    recipe = load_recipe("dimat-digits", LIARS)
    learner = own_learner(recipe, 1)
    liar = as_told(recipe, 1, learner)
    assert isinstance(liar, AttackingLearner) and liar.inner is learner
    assert isinstance(assemble_learner(recipe, 1), AttackingLearner)
    assert not isinstance(learner, AttackingLearner)


async def test_what_goes_out_is_the_lie_and_before_there_is_one_the_truth():
    recipe = load_recipe("dimat-digits", LIARS)
    ids = [Identity.from_seed(bytes([index])).id for index in range(3)]
    roster = Roster(Member(index, f"peer-{index}", who, "") for index, who in enumerate(ids))
    network, liar = MemoryNetwork(latency=0.0), as_told(recipe, 1, own_learner(recipe, 1))
    honest, inner = network.transport(ids[0]), network.transport(ids[1])
    inner.introduce(ids[0], ids[0])
    transport = lying(inner, liar, recipe, roster, ENCODINGS.construct("none").whole)
    start = liar.parameters()
    await transport.send(ids[0], Model(0, start))
    true = (await anext(honest.inbox(Model))).message.tensors
    liar.train(1)
    await transport.send(ids[0], Model(1, liar.parameters()))
    lie = (await anext(honest.inbox(Model))).message.tensors
    assert all(torch.equal(true[name], tensor) for name, tensor in start.items())
    assert all(torch.equal(lie[name], tensor) for name, tensor in liar.lie.items())
    assert not torch.equal(lie["1.weight"], liar.parameters()["1.weight"])
