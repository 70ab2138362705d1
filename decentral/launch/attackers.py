"""Peers that a recipe tells to lie: an honest learner and an honest transport, and the lie around both."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from decentral.algorithms.presence import Roster
from decentral.core.attacks import ATTACKS, Attack
from decentral.core.compression import Unsound, unpack
from decentral.core.encodings import Encoding
from decentral.core.seeds import derive_seed
from decentral.run.recipe import Recipe
from decentral.training.attacks import AttackingLearner
from decentral.training.learner import Learner
from decentral.wire.lying import LyingTransport
from decentral.wire.messages import Model, PeerId
from decentral.wire.transport import Transport


def attack_of(recipe: Recipe, index: int) -> Attack | None:
    """What the recipe tells peer `index` to do to the others; None for an honest one."""
    if recipe.attack is None or index not in recipe.attackers:
        return None
    attack: Attack = ATTACKS.construct(recipe.attack.name, **recipe.attack.options)
    return attack


def as_told(recipe: Recipe, index: int, learner: Learner) -> Learner:
    """A peer's learner as the recipe wants it: itself, or inside one that lies."""
    attack = attack_of(recipe, index)
    if recipe.attack is None or attack is None:
        return learner
    return AttackingLearner(learner, attack, peer=index, seed=recipe.seed, from_round=recipe.attack.from_round)


def lying(
    transport: Transport, learner: AttackingLearner, recipe: Recipe, roster: Roster, write: Encoding
) -> Transport:
    """The transport of an attacker: its lies go out as `write` has them, and it hears what honest peers send."""
    index_of = roster.index_of
    honest = {who: index for who, index in index_of.items() if index not in recipe.attackers}

    def say(model: Model) -> Model | None:
        if learner.lie is None:
            return None
        noise = torch.Generator().manual_seed(derive_seed(recipe.seed, "lie", index_of[transport.id], model.round))
        return replace(model, tensors=write(learner.lie, learner.lie, noise))

    def hear(sender: PeerId, model: Model) -> None:
        if learner.attack.listens and sender in honest:
            with contextlib.suppress(Unsound):
                learner.hear(honest[sender], model.round, unpack(model.tensors, learner.view()))

    return LyingTransport(transport, say, hear)
