"""Whatever a client changes in what was said, no receipt of it is valid: it computes every digest again, and signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from decentral.trust.evidence import FaultKind, Finding, Kind, Reply, tensors_digest
from decentral.trust.examination import examine
from decentral.trust.order import Order
from decentral.trust.policy import Policy, Verdict
from decentral.trust.receipt import Exchange, Receipt, Transcript, check, verify
from decentral.wire.identity import Identity
from tests.trust.world import World

RICH = World(replicas=5, rounding=True)
RICH_ACTS = {("stage-0", 1): "silent", ("stage-1", 2): "lies"}
SMALL = World(parts=1)
ALONE = Policy(replicas=1, quorum=1, faulty=0)

Change = Callable[[World, Transcript], Transcript]


def of_order(**changes: Any) -> Change:
    def change(world: World, said: Transcript) -> Transcript:
        order = replace(said.order, **changes)
        exchanges = (replace(each, step=step) for each, step in zip(said.exchanges, order.steps, strict=True))
        return replace(said, order=order, exchanges=tuple(exchanges))

    return change


def of_step(**changes: Callable[[World], Any]) -> Change:
    """Of the second part, in the order and where it was asked."""

    def change(world: World, said: Transcript) -> Transcript:
        first, second, *rest = said.order.steps
        made = replace(second, **{key: value(world) for key, value in changes.items()})
        return of_order(steps=(first, made, *rest))(world, said)

    return change


def of_exchange(place: int, change: Callable[[Exchange], Exchange]) -> Change:
    def changed(world: World, said: Transcript) -> Transcript:
        exchanges = list(said.exchanges)
        exchanges[place] = change(exchanges[place])
        return replace(said, exchanges=tuple(exchanges))

    return changed


def of_reply(place: int, which: int, change: Callable[[Reply], Reply]) -> Change:
    def changed(exchange: Exchange) -> Exchange:
        node = exchange.asked[which]
        return replace(exchange, replies={**exchange.replies, node: change(exchange.replies[node])})

    return of_exchange(place, changed)


def other_output(world: World, said: Transcript) -> Transcript:
    """All replicas of the last part come to something else, and every digest of it is computed again."""
    last = said.exchanges[-1]
    tensors = {"output": torch.full((2, 4), 5.0)}

    def of(reply: Reply) -> Reply:
        return replace(reply, reveal=replace(reply.reveal, output=tensors_digest(tensors)), tensors=tensors)

    return of_exchange(-1, lambda _: replace(last, replies={n: of(r) for n, r in last.replies.items()}))(world, said)


def other_output_in_the_middle(world: World, said: Transcript) -> Transcript:
    """The second part was given something else than the first came to."""
    return of_exchange(1, lambda each: replace(each, inputs=b"I" * 32))(world, said)


def another_peer(world: World, said: Transcript) -> Transcript:
    """The last that was asked is replaced by one that was not."""

    def change(each: Exchange) -> Exchange:
        line = said.order.line(each.step)
        gone, new = each.asked[-1], line[len(each.asked)]
        replies = {node: reply for node, reply in each.replies.items() if node != gone}
        return replace(each, asked=(*each.asked[:-1], new), replies={**replies, new: each.replies[gone]})

    return of_exchange(1, change)(world, said)


def dropped(count: int) -> Change:
    """The last that were asked are not mentioned at all."""

    def change(each: Exchange) -> Exchange:
        asked = each.asked[:-count]
        return replace(each, asked=asked, replies={node: each.replies[node] for node in asked})

    return of_exchange(1, change)


def turned(world: World, said: Transcript) -> Transcript:
    """The parts in another order."""
    first, second, third = said.exchanges
    order = replace(said.order, steps=(second.step, first.step, third.step))
    return replace(said, order=order, exchanges=(second, first, third))


def one_part_for_another(world: World, said: Transcript) -> Transcript:
    """What the first part has said, as what the second has said."""
    first, second, third = said.exchanges
    return replace(said, exchanges=(first, replace(first, step=second.step), third))


def asked_all(world: World, said: Transcript) -> Transcript:
    """The line was asked to its end, as if one of those asked had not answered."""

    def change(each: Exchange) -> Exchange:
        line = said.order.line(each.step)
        more = {node: Reply() for node in line[len(each.asked) :]}
        return replace(each, asked=tuple(line), replies={**each.replies, **more, each.asked[0]: Reply()})

    return of_exchange(1, change)(world, said)


CHANGES: dict[str, Change] = {
    "the output": other_output,
    "the output's tensors": of_exchange(
        -1,
        lambda each: replace(
            each, replies={n: replace(r, tensors={"output": torch.zeros(2, 4)}) for n, r in each.replies.items()}
        ),
    ),
    "no tensors": of_exchange(
        -1, lambda each: replace(each, replies={n: replace(r, tensors=None) for n, r in each.replies.items()})
    ),
    "what a part was given": other_output_in_the_middle,
    "a peer": another_peer,
    "two peers change places": of_exchange(1, lambda each: replace(each, asked=each.asked[::-1])),
    "the seed": of_order(seed=b"S" * 32),
    "the epoch": of_order(epoch=8),
    "an earlier epoch": of_order(epoch=6),
    "the time": of_order(time=1_700_000_001),
    "the inputs": of_order(inputs=b"I" * 32),
    "the policy": of_order(policy=Policy(tolerance=2e-4)),
    "a weaker policy": of_order(policy=ALONE),
    "that a part was the client's": of_order(local=(("stage-9", b"9" * 32),)),
    "the order of the parts": turned,
    "one part for another": one_part_for_another,
    "the weights": of_step(weights=lambda w: {**w.order.steps[1].weights, w.order.steps[1].server: 0.6}),
    "the candidates": of_step(weights=lambda w: dict(list(w.order.steps[1].weights.items())[:4])),
    "the one that serves": of_step(server=lambda w: w.order.line(w.order.steps[1])[1]),
    "the model": of_step(model=lambda w: b"M" * 32),
    "the part's name": of_step(part=lambda w: "stage-7"),
    "no reply of one": of_reply(1, 0, lambda reply: Reply()),
    "no commitment of one": of_reply(1, 0, lambda reply: replace(reply, commitment=None)),
    "another commitment of one": of_reply(1, 0, lambda reply: replace(reply, commitment=b"c" * 32)),
    "no reveals but one": of_exchange(
        1,
        lambda each: replace(
            each, replies={n: r if n == each.asked[0] else Reply(r.commitment) for n, r in each.replies.items()}
        ),
    ),
    "one fewer was asked": dropped(1),
    "two fewer were asked": dropped(2),
    "nobody was asked": of_exchange(1, lambda each: replace(each, asked=(), replies={})),
    "all were asked": asked_all,
    "no last part": lambda world, said: replace(said, exchanges=said.exchanges[:-1]),
    "no part": lambda world, said: replace(said, exchanges=()),
    "evidence that nobody can check": of_exchange(1, lambda each: replace(each, evidence={Kind.ATTESTATION: b"quote"})),
    "evidence of what is no evidence": of_exchange(1, lambda each: replace(each, evidence={Kind.MODEL: b"yes"})),
}  # fmt: skip


@pytest.mark.parametrize(("world", "acts"), [(World(replicas=5), {}), (RICH, RICH_ACTS)], ids=["plain", "rich"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_is_changed_and_signed_again_is_not_valid(
    world: World, acts: dict[tuple[str, int], str], change: Change
) -> None:
    said = world.transcript(acts)
    true = examine(said, world.anchors, world.policy)
    assert verify(Receipt.signed(said, true, world.client), world.anchors).valid
    forged = change(world, said)
    again = examine(forged, world.anchors, forged.order.policy)
    for found in (again, true):  # as it is found again, and as the client would have it
        receipt = Receipt.signed(forged, found, world.client)
        for each in (receipt, Receipt.decode(receipt.encode())):
            verdict = verify(each, world.anchors)
            assert not verdict.valid
            assert verdict.reasons


def test_the_client_cannot_be_changed() -> None:
    other = Identity.from_seed(b"another client")
    said = SMALL.transcript()
    found = examine(said, SMALL.anchors, SMALL.policy)
    stolen = Receipt.signed(said, found, other)
    assert verify(stolen, SMALL.anchors).reasons == ("the receipt is signed by another than the client",)
    renamed = of_order(client=other.id)(SMALL, said)
    assert not verify(Receipt.signed(renamed, found, other), SMALL.anchors).valid
    unsigned = replace(Receipt.signed(said, found, SMALL.client), signature=bytes(64))
    assert verify(unsigned, SMALL.anchors).reasons == ("the signature of the receipt does not verify",)


def test_what_the_client_says_it_found_has_to_be_found_again() -> None:
    said = World().transcript()
    found = examine(said, World().anchors, World().policy)
    (first, *rest) = found.findings
    edits = (
        replace(found, findings=(replace(first, detail="is fine"), *rest)),
        replace(found, findings=tuple(rest)),
        replace(found, findings=(*found.findings, Finding(Kind.ZK, "stage-1", True, "is proved"))),
        replace(found, findings=()),
        replace(found, verdict=Verdict(False, ("it is not",))),
        replace(found, verdict=Verdict(True, ("it is not",))),
    )
    for edited in edits:
        verdict = verify(Receipt.signed(said, edited, World().client), World().anchors)
        assert verdict.reasons == ("the receipt says of itself what is not found again",)
    bad = World().transcript({("stage-2", 0): "lies", ("stage-2", 1): "withholds"})
    embellished = replace(examine(bad, World().anchors, Policy()), findings=found.findings, verdict=found.verdict)
    assert not verify(Receipt.signed(bad, embellished, World().client), World().anchors).valid


def test_a_trust_file_that_says_something_else_makes_it_invalid() -> None:
    world = World()
    receipt = world.receipt()
    anchors = world.anchors
    first, *others = anchors.peers
    stranger = Identity.from_seed(b"stranger").id
    parts = anchors.parts
    for other in (
        replace(anchors, epoch=8),
        replace(anchors, peers=tuple(others)),
        replace(anchors, peers=(replace(first, id=stranger), *others)),
        replace(anchors, peers=(replace(first, part="stage-1", digest=parts[1].digest), *others)),
        replace(anchors, parts=parts[::-1]),
        replace(anchors, parts=parts[:2]),
        replace(anchors, parts=(replace(parts[0], at="client"), *parts[1:])),
        replace(anchors, parts=(replace(parts[0], digest="00" * 32), *parts[1:])),
        replace(anchors, parts=()),
        replace(anchors, peers=()),
        World(seed=b"o" * 32, parts=2).anchors,
    ):
        assert not verify(receipt, other).valid
    assert verify(receipt, anchors).valid


def test_a_key_in_a_receipt_is_no_root() -> None:
    """A whole cluster of somebody else's, whose keys all stand in its receipts."""

    class Other(World):
        def identity(self, part: str, letter: str) -> Identity:
            return Identity.from_seed(f"other {part}-{letter}".encode())

    assert verify(Other().receipt(), Other().anchors).valid
    assert not verify(Other().receipt(), World().anchors).valid


def test_a_reveal_that_the_client_drops_makes_its_peer_look_unresponsive_and_changes_no_answer() -> None:
    """The one thing that nobody can see afterwards: what a peer has said, and the client says that it has not."""
    world = World(rounding=True)
    said = world.transcript()
    nodes = world.order.line(world.order.steps[2])
    for which in range(3):
        left_out = of_reply(2, which, lambda reply: Reply(reply.commitment))(world, said)
        found = check(world.signed(left_out), world.anchors, Policy())
        assert found.verdict.valid
        assert [(fault.node, fault.kind) for fault in found.faults] == [(nodes[which], FaultKind.UNRESPONSIVE)]
        assert found.output is not None
        given_by = [r.reveal.output for n, r in said.exchanges[2].replies.items() if n != nodes[which]]
        assert tensors_digest(found.output) in given_by
        assert found.findings[-1].measured == 2.0, "and it shows that one fewer agreed"


def test_an_order_of_other_parts_than_were_asked_is_no_receipt() -> None:
    said = World().transcript()
    order: Order = replace(said.order, steps=said.order.steps[::-1])
    mixed = replace(said, order=order)
    assert not examine(mixed, World().anchors, Policy()).verdict.valid
    with pytest.raises(ValueError, match="other parts"):
        World().signed(mixed)
