"""What was found of a receipt is told with the names of the trust file."""

from __future__ import annotations

import pytest

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
    told = telling.faults(world.anchors, [*found.faults, *found.faults])
    assert [(fault["node"], fault["part"], fault["kind"]) for fault in told] == [(liar, "stage-1", "disagreed")]


@pytest.mark.parametrize(
    ("seconds", "told"), [(1_700_000_000, "2023-11-14 22:13:20 UTC"), (2**62, f"{2**62} s after 1970")]
)
def test_a_time_is_told_whatever_a_client_says_that_it_was(seconds: int, told: str) -> None:
    assert telling.moment(seconds) == told
