"""Who has the model finds out who lied, of all that a receipt holds; with another model nobody is accused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decentral.errors import UserError
from decentral.serving.asking.settling import settle
from decentral.serving.stages.model import save_stages
from decentral.trust.evidence import FaultKind, tensors_digest
from decentral.trust.policy import Policy
from decentral.trust.receipt import Receipt, check
from tests.trust.world import NETWORK, Filed, World

WORLD = Filed()


def found(folder: Path, acts: Mapping[tuple[str, int], str], world: World = WORLD) -> tuple[bool, set[tuple[str, str]]]:
    """Whether it is valid, and who is called what; by who has the model."""
    WORLD.keep(folder)
    receipt = Receipt.decode(world.receipt(acts).encode())
    settled = settle(receipt.transcript, world.anchors, folder)
    assert settled.open == {}
    examined = check(receipt, world.anchors, Policy(), settled.references)
    names = {peer.id: peer.name for peer in world.anchors.peers}
    return examined.verdict.valid, {(names[fault.node], fault.kind.value) for fault in examined.faults}


@pytest.mark.parametrize("rounding", [False, True])
def test_honest_replicas_are_not_accused_however_they_round(tmp_path: Path, rounding: bool) -> None:
    assert found(tmp_path, {}, Filed(rounding=rounding)) == (True, set())


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("part", ["stage-0", "stage-1", "stage-2"])
def test_who_lied_about_any_part_is_named(tmp_path: Path, part: str, rounding: bool) -> None:
    world = Filed(rounding=rounding)
    liar = world.order.line(next(step for step in world.order.steps if step.part == part))[1]
    name = next(peer.name for peer in world.anchors.peers if peer.id == liar)
    assert found(tmp_path, {(part, 1): "lies"}, world) == (True, {(name, FaultKind.LIED.value)})


def test_a_quorum_of_liars_is_named_and_the_answer_is_not_valid(tmp_path: Path) -> None:
    valid, faults = found(tmp_path, {("stage-1", 0): "conspires", ("stage-1", 1): "conspires"})
    assert not valid
    assert {kind for _, kind in faults} == {FaultKind.LIED.value}
    assert len(faults) == 2


def test_what_cannot_be_computed_again_stays_open(tmp_path: Path) -> None:
    WORLD.keep(tmp_path)
    said = WORLD.transcript({("stage-0", 1): "lies", ("stage-2", 1): "lies"})
    settled = settle(replace(said, inputs=None), WORLD.anchors, tmp_path)
    assert settled.open == {"stage-0": "what it was given is not in the receipt"}
    assert list(settled.references) == ["stage-2"]
    fewer = replace(WORLD.anchors, parts=WORLD.anchors.parts[:2])
    assert settle(said, fewer, tmp_path).open == {"stage-2": "is no part that is pinned"}
    first, _, third = said.exchanges
    for odd in ({"y": torch.zeros(2)}, {name: each[:, :1] for name, each in said.given(1).items()}):
        sent = {node: replace(reply, tensors=odd) for node, reply in first.replies.items()}
        misled = replace(WORLD.transcript({("stage-1", 1): "lies"}).exchanges[1], inputs=tensors_digest(odd))
        settled = settle(
            replace(said, exchanges=(replace(first, replies=sent), misled, third)), WORLD.anchors, tmp_path
        )
        assert settled.open["stage-1"] == "cannot be computed from what it was given"


def test_another_model_accuses_nobody(tmp_path: Path) -> None:
    said = WORLD.transcript({("stage-1", 1): "lies"})
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=str(folder)):
            settle(said, WORLD.anchors, folder)
    torch.manual_seed(6)
    save_stages(tmp_path, NETWORK, NETWORK.split(NETWORK.build()))
    with pytest.raises(UserError, match="stage-1 is not the one that is pinned"):
        settle(said, WORLD.anchors, tmp_path)
