"""What was found of a receipt is told with the names of the trust file."""

from __future__ import annotations

from decentral.trust import telling
from decentral.trust.policy import Policy
from decentral.trust.receipt import check
from tests.trust.world import World


def test_who_agreed_who_did_not_and_why() -> None:
    world = World()
    receipt = world.receipt({("stage-1", 1): "lies"})
    names = {peer.id: peer.name for peer in world.anchors.peers}
    liar = names[world.order.line(world.order.steps[1])[1]]
    found = check(receipt, world.anchors, Policy())
    parts = telling.parts(receipt, world.anchors, found)
    assert [(part["part"], len(part["agree"]), part["others"]) for part in parts] == [
        ("stage-0", 3, []),
        ("stage-1", 2, [liar]),
        ("stage-2", 3, []),
    ]
    assert [(fault["node"], fault["part"], fault["kind"]) for fault in telling.faults(world.anchors, found)] == [
        (liar, "stage-1", "disagreed")
    ]
