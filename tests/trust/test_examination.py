"""An honest answer is valid to all who trust its cluster; who was faulty is named; the stricter policy counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decentral.trust.anchors import Revoked
from decentral.trust.consensus import Tensors
from decentral.trust.evidence import FaultKind, Kind, Question
from decentral.trust.examination import Examination, examine, hear_part, judged
from decentral.trust.policy import Policy
from decentral.trust.receipt import check
from decentral.trust.transcript import Transcript
from decentral.wire.messages import PeerId
from tests.trust.world import Acts, World

QUORUM_3_OF_4 = Policy(replicas=4, quorum=3, faulty=1)
ALONE = Policy(replicas=1, quorum=1, faulty=0)
WORLDS = {
    "3 x 3": World(),
    "3 x 3, machines round": World(rounding=True),
    "the first part at the client": World(local=1),
    "two tensors cross": World(pair=True, rounding=True),
    "k = 4": World(replicas=4, policy=QUORUM_3_OF_4),
    "k = 3 of 6": World(replicas=6),
    "k = 1": World(replicas=2, policy=ALONE),
    "one in three is audited": World(policy=Policy(audits=0.33)),
    "one part": World(parts=1),
}

ALONE_FAULTY = ["lies", "withholds", "breaks", "copies", "is stale", "not a number"]


def examined(world: World, acts: Acts | None = None, policy: Policy | None = None) -> Examination:
    return examine(world.transcript(acts), world.anchors, policy or world.policy)


# Honest


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_honest_answers_are_valid_and_nobody_is_blamed(world: World) -> None:
    found = examined(world)
    assert found.verdict.valid
    assert found.verdict.reasons == ()
    assert found.faults == ()
    with torch.no_grad():
        tensors = world.inputs
        for stage in list(world.stages.values())[world.local :]:
            tensors = stage.run(tensors)
    assert found.output is not None
    for name, tensor in tensors.items():
        assert torch.allclose(found.output[name], tensor, atol=1e-4)


@pytest.mark.parametrize(
    ("act", "world"),
    [
        *((act, world) for act in ALONE_FAULTY for world in (World(), World(rounding=True))),
        ("keeps", World(rounding=True)),
    ],
)
def test_one_of_three_who_is_faulty_is_named_and_changes_nothing(act: str, world: World) -> None:
    for place in range(3):
        found = examined(world, {("stage-1", place): act})
        assert found.verdict.valid
        assert [fault.node for fault in found.faults] == [world.order.line(world.order.steps[1])[place]]
        assert torch.allclose(next(iter(found.output.values())), next(iter(examined(world).output.values())), atol=1e-4)


def test_who_is_silent_is_replaced_by_the_next_in_the_line() -> None:
    world = World(replicas=5)
    transcript = world.transcript({("stage-0", 0): "silent", ("stage-0", 1): "silent", ("stage-2", 2): "silent"})
    assert [len(exchange.asked) for exchange in transcript.exchanges] == [5, 3, 4]
    found = examine(transcript, world.anchors, world.policy)
    assert found.verdict.valid
    assert [fault.kind for fault in found.faults] == [FaultKind.UNRESPONSIVE] * 3


def test_two_of_three_who_are_silent_leave_no_quorum() -> None:
    found = examined(World(), {("stage-1", 0): "silent", ("stage-1", 1): "silent"})
    assert not found.verdict.valid
    assert found.output is None
    assert len(found.judgements) == 2, "nobody was asked about what comes after"


def test_an_output_that_is_no_number_is_none() -> None:
    acts = {("stage-2", place): "not a number" for place in range(3)}
    assert not examined(World(), acts).verdict.valid
    assert not examined(World(policy=ALONE), acts).verdict.valid


def test_digests_are_enough_where_all_have_the_same_and_another_part_came_after() -> None:
    world = World()
    transcript = world.transcript()

    def without_tensors(*places: int) -> Transcript:
        exchanges = [
            replace(each, replies={node: replace(reply, tensors=None) for node, reply in each.replies.items()})
            if place in places
            else each
            for place, each in enumerate(transcript.exchanges)
        ]
        return replace(transcript, exchanges=tuple(exchanges))

    whole = examine(transcript, world.anchors, world.policy)
    kept = examine(without_tensors(0, 1), world.anchors, world.policy)
    assert kept.verdict.valid
    assert kept.findings == whole.findings
    assert kept.faults == whole.faults
    assert not examine(without_tensors(2), world.anchors, world.policy).verdict.valid


# Who counts no more


@pytest.mark.parametrize("late", [False, True])
def test_what_a_revoked_replica_or_client_has_said_counts_until_then_by_the_order_s_time(late: bool) -> None:
    world = World()
    since = world.order.time if late else world.order.time + 1
    replica = world.order.line(world.order.steps[1])[0]
    for peer, told in ((replica, "was asked, which"), (world.client.id, "the client")):
        anchors = replace(world.anchors, revoked=(Revoked(peer, since, "stolen"),))
        verdict = examine(world.transcript(), anchors, world.policy).verdict
        assert verdict.valid is not late
        assert [told in reason and "revoked by then (stolen)" in reason for reason in verdict.reasons] == [True] * late
        receipt = check(world.receipt(), anchors, world.policy).verdict
        assert receipt.valid is not late, "and so does anybody who reads the receipt"


# The verifier's own policy


def test_where_the_policies_differ_the_stricter_counts() -> None:
    asked_three = World(replicas=4).transcript()
    anchors = World(replicas=4).anchors
    assert examine(asked_three, anchors, Policy()).verdict.valid
    assert not examine(asked_three, anchors, QUORUM_3_OF_4).verdict.valid
    asked_four = World(replicas=4, policy=QUORUM_3_OF_4)
    assert examined(asked_four, policy=Policy()).verdict.valid
    liars = {("stage-1", 0): "lies", ("stage-1", 1): "withholds"}
    assert not examined(asked_four, liars, Policy()).verdict.valid, "as ordered, three have to agree"
    alone = World(policy=ALONE)
    assert examined(alone).verdict.valid
    assert not examined(alone, policy=Policy()).verdict.valid
    assert not examined(World(policy=Policy(audits=0.0)), policy=Policy()).verdict.valid
    assert examined(World(), policy=Policy(audits=0.0)).verdict.valid
    loose = World(rounding=True)
    assert not examined(loose, policy=Policy(tolerance=1e-9)).verdict.valid
    assert not examine(loose.transcript(), World(tolerance=1e-9).anchors, Policy()).verdict.valid
    required = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}))
    assert not examined(World(), policy=required).verdict.valid


class TwoOfAKind(World):
    """Of three machines one rounds differently."""

    def computed(self, question: Question, given: Tensors, node: PeerId) -> dict[str, Tensor]:
        odd = min(anchor.id for anchor in self.anchors.replicas(question.part))
        return super().computed(question, given, node) if node == odd else self.stages[question.part].run(given)


def test_who_wants_proofs_of_what_was_answered_in_floats_has_none_and_blames_nobody_for_rounding() -> None:
    world = TwoOfAKind(rounding=True)
    assert examined(world).verdict.valid
    found = examined(world, policy=world.policy.requiring("consensus,zk"))
    assert not found.verdict.valid
    assert not found.faults


def test_two_of_many_are_no_quorum_for_who_wants_two_of_three() -> None:
    two_of_five = Policy(replicas=5, quorum=2, faulty=1)
    world = World(replicas=5, policy=two_of_five)
    three_gone = {("stage-1", place): "withholds" for place in range(3)}
    assert examined(world, three_gone).verdict.valid
    assert not examined(world, three_gone, Policy()).verdict.valid


def test_a_line_that_is_shorter_than_ordered_is_valid_only_to_whom_that_is_enough() -> None:
    two = Policy(replicas=2, quorum=2, faulty=0)
    world = World(replicas=2)
    transcript = world.transcript(content=two)
    assert len(transcript.exchanges) == 3
    assert not examine(transcript, world.anchors, Policy()).verdict.valid
    assert examine(transcript, world.anchors, two).verdict.valid


def test_what_was_heard_once_serves_every_policy() -> None:
    world = World(rounding=True)
    said = world.transcript({("stage-1", 0): "lies", ("stage-2", 1): "withholds"})
    for place in range(3):
        heard = hear_part(said, place)
        for policy in (Policy(), Policy(tolerance=1e-9), QUORUM_3_OF_4):
            known, anew = (judged(said, place, world.anchors, policy, heard=each) for each in (heard, None))
            assert known.finding == anew.finding
            assert known.faults == anew.faults
            assert known.vote == anew.vote
