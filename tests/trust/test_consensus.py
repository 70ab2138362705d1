"""Every way to lie beside the honest case: the answer is right or there is none, and who is named did it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.agreement import Outcome
from decentral.core.quorum import Sizes, against_colluders, with_deadlines
from decentral.errors import Malformed
from decentral.trust.consensus import Judgement, equivocation, fresh, judge, linked, pinned
from decentral.trust.evidence import (
    Claim,
    FaultKind,
    Question,
    Reply,
    Reveal,
    Sealed,
    SignedClaim,
    commit,
    tensors_digest,
    together,
)
from decentral.wire.identity import Identity

TOLERANCE = 1e-4
PEERS = [Identity.from_seed(f"peer-{i}".encode()) for i in range(8)]
SYBILS = [Identity.from_seed(f"sybil-{i}".encode()) for i in range(20)]
EVERYBODY = [*PEERS, *SYBILS]
SIZES = {"2f+1, f=1": with_deadlines(1), "2f+1, f=2": with_deadlines(2), "3f+1, f=1": against_colluders(1),
         "3f+1, f=2": against_colluders(2)}  # fmt: skip
QUESTION = Question(b"t" * 16, "stage-1", b"m" * 32, b"i" * 32, b"n" * 32, 7)
WEIGHTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
INPUTS = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
TRUTH = {"y": INPUTS.double() @ WEIGHTS.double()}
UNSIGNED = b"?" * 64


@dataclass(frozen=True, slots=True, eq=False)
class Draft(Reply):
    """A reply that is signed once it is known what all have committed to; `asked`: what its sender takes it for."""

    asked: Question = QUESTION


Replies = dict[str, Draft]


def computed(place: int) -> dict[str, Tensor]:
    """Machines round differently."""
    wiggle = torch.randn(3, 4, generator=torch.Generator().manual_seed(place)) * 1e-6
    return {"y": INPUTS @ WEIGHTS + wiggle}


def reply(peer: Identity, tensors: Mapping[str, Tensor], question: Question = QUESTION) -> Draft:
    salt = hashlib.sha256(peer.public_key + question.nonce).digest()
    claim = Claim(question, tensors_digest(tensors))
    return Draft(
        commit(peer, claim, salt).commitment, Reveal(peer.public_key, claim.output, salt, UNSIGNED), tensors, question
    )


def opened(asked: Sequence[str], replies: Replies) -> dict[str, Reply]:
    """What they send when all have seen what all have committed to. Liars sign whatever they are shown."""
    commitments = [made for node in asked if (made := replies.get(node, Draft()).commitment) is not None]

    def signed(draft: Draft) -> Reply:
        reveal = draft.reveal
        if reveal is None or reveal.signature != UNSIGNED:
            return draft
        claim = Claim(draft.asked, reveal.output)
        key = next((peer for peer in EVERYBODY if peer.public_key == reveal.public_key), EVERYBODY[0])
        sealed = Sealed(key, claim, reveal.salt, commitments[0])
        return replace(draft, reveal=replace(reveal, signature=sealed.open(commitments).signature))

    return {node: signed(draft) for node, draft in replies.items()}


def honest(count: int) -> Replies:
    return {peer.id: reply(peer, computed(place)) for place, peer in enumerate(PEERS[:count])}


def judged(replies: Replies, sizes: Sizes, **options: object) -> Judgement:
    asked = [peer.id for peer in PEERS[: sizes.replicas]]
    return judge(QUESTION, asked, opened(asked, replies), sizes, TOLERANCE, **options)


def off(judgement: Judgement) -> float:
    assert judgement.answer is not None
    return float((judgement.answer.tensors["y"].double() - TRUTH["y"]).abs().max() / TRUTH["y"].abs().max())


# What a faulty replica does: from the peer, its place and all honest replies to what it sends, and what it is called
# before and after the client computes the answer itself.


def wrong_output(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, {"y": torch.full((3, 4), float(place))})


def wrong_model(peer: Identity, place: int, others: Replies) -> Draft:
    weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(100 + place))
    return reply(peer, {"y": INPUTS @ weights})


def lower_precision(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, {"y": (INPUTS.bfloat16() @ WEIGHTS.bfloat16()).float()})


def collusion(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, {"y": -computed(0)["y"]})


def not_numbers(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, {"y": torch.full((3, 4), torch.nan)})


def other_shape(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, {"y": computed(0)["y"][:2]})


def copied_commitment(peer: Identity, place: int, others: Replies) -> Draft:
    """And afterwards the neighbour's reveal, under its own signature."""
    victim = others[PEERS[-1].id]
    return replace(victim, reveal=replace(victim.reveal, public_key=peer.public_key))


def neighbours_words(peer: Identity, place: int, others: Replies) -> Draft:
    return others[PEERS[-1].id]


def silence(peer: Identity, place: int, others: Replies) -> Draft:
    return Draft()


def withheld_reveal(peer: Identity, place: int, others: Replies) -> Draft:
    return Draft(reply(peer, computed(place)).commitment)


def crash_in_the_reveal(peer: Identity, place: int, others: Replies) -> Draft:
    return replace(reply(peer, computed(place)), tensors=None)


def another_reveal(peer: Identity, place: int, others: Replies) -> Draft:
    """Sees what the others reveal, and would rather have said that."""
    other = reply(peer, {"y": -computed(0)["y"]})
    return replace(other, commitment=reply(peer, computed(place)).commitment)


def other_bytes(peer: Identity, place: int, others: Replies) -> Draft:
    return replace(reply(peer, computed(place)), tensors={"y": -computed(0)["y"]})


def replayed(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, computed(place), replace(QUESTION, nonce=b"N" * 32, task=b"T" * 16))


def stale_epoch(peer: Identity, place: int, others: Replies) -> Draft:
    return reply(peer, computed(place), replace(QUESTION, epoch=6))


def forged_signature(peer: Identity, place: int, others: Replies) -> Draft:
    own = reply(peer, computed(place))
    return replace(own, reveal=replace(own.reveal, signature=bytes(64)))


Behaviour = Callable[[Identity, int, Replies], Draft]
SIGNED_LIES: list[Behaviour] = [wrong_output, wrong_model, lower_precision, collusion, not_numbers, other_shape]
BREACHES: dict[Behaviour, FaultKind] = {
    copied_commitment: FaultKind.BROKE_COMMITMENT,
    neighbours_words: FaultKind.INVALID,
    silence: FaultKind.UNRESPONSIVE,
    withheld_reveal: FaultKind.UNRESPONSIVE,
    crash_in_the_reveal: FaultKind.UNRESPONSIVE,
    another_reveal: FaultKind.BROKE_COMMITMENT,
    other_bytes: FaultKind.BROKE_COMMITMENT,
    replayed: FaultKind.INVALID,
    stale_epoch: FaultKind.INVALID,
    forged_signature: FaultKind.INVALID,
}


def faulty(behaviour: Behaviour, count: int, sizes: Sizes) -> Replies:
    """The first so many replicas behave so; there is one more peer, whom nobody asked, to copy from."""
    replies = honest(len(PEERS))
    lies = {peer.id: behaviour(peer, place, replies) for place, peer in enumerate(PEERS[:count])}
    return {**replies, **lies}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_honest_replicas_agree_and_nobody_is_blamed(sizes: Sizes) -> None:
    for options in ({}, {"reference": TRUTH}):
        judgement = judged(honest(sizes.replicas), sizes, **options)
        assert judgement.finding.passed
        assert judgement.finding.measured == sizes.replicas
        assert judgement.faults == ()
        assert off(judgement) < TOLERANCE
        assert judgement.answer.signed.signer() == judgement.answer.node


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("behaviour", SIGNED_LIES, ids=lambda each: each.__name__)
def test_f_who_sign_lies_are_outvoted_and_convicted(behaviour: Behaviour, sizes: Sizes) -> None:
    liars = {peer.id for peer in PEERS[: sizes.faulty]}
    replies = faulty(behaviour, sizes.faulty, sizes)
    outvoted = judged(replies, sizes)
    assert off(outvoted) < TOLERANCE
    assert {(fault.node, fault.kind) for fault in outvoted.faults} == {(node, FaultKind.DISAGREED) for node in liars}
    convicted = judged(replies, sizes, reference=TRUTH)
    assert off(convicted) < TOLERANCE
    assert {(fault.node, fault.kind) for fault in convicted.faults} == {(node, FaultKind.LIED) for node in liars}
    for fault in convicted.faults:
        assert fault.proof[0].signer() == fault.node, "anybody can check whose signature it is"


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("behaviour", BREACHES, ids=lambda each: each.__name__)
def test_f_who_break_the_rules_have_no_vote_and_are_called_what_they_did(behaviour: Behaviour, sizes: Sizes) -> None:
    broke = {(peer.id, BREACHES[behaviour]) for peer in PEERS[: sizes.faulty]}
    for options in ({}, {"reference": TRUTH}):
        judgement = judged(faulty(behaviour, sizes.faulty, sizes), sizes, **options)
        assert off(judgement) < TOLERANCE
        assert {(fault.node, fault.kind) for fault in judgement.faults} == broke
        assert judgement.finding.measured == sizes.replicas - sizes.faulty


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("behaviour", [*SIGNED_LIES, *BREACHES], ids=lambda each: each.__name__)
def test_without_an_honest_quorum_there_is_no_answer_or_a_right_one(behaviour: Behaviour, sizes: Sizes) -> None:
    """So many lie that the honest are no quorum, and still too few to be one themselves."""
    lying = sizes.quorum - 1
    for options in ({}, {"reference": TRUTH}):
        judgement = judged(faulty(behaviour, lying, sizes), sizes, **options)
        assert judgement.finding.passed == (sizes.replicas - lying >= sizes.quorum)
        if judgement.answer is not None:
            assert off(judgement) < TOLERANCE
        named = {fault.node for fault in judgement.faults}
        assert not named & {peer.id for peer in PEERS[lying:]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_colluders_who_are_a_quorum_capture_the_vote_until_the_answer_is_computed_again(sizes: Sizes) -> None:
    replies = faulty(collusion, sizes.quorum, sizes)
    captured = judged(replies, sizes)
    assert captured.finding.passed
    assert off(captured) > 1, "which is what `capture` gives the probability of"
    assert all(fault.kind is FaultKind.DISAGREED for fault in captured.faults), "the honest are not called liars"
    found = judged(replies, sizes, reference=TRUTH)
    assert not found.finding.passed
    assert found.answer is None
    assert {fault.node for fault in found.faults} == {peer.id for peer in PEERS[: sizes.quorum]}


@given(st.floats(0, 0.9), st.integers(0, 2**32 - 1), st.sampled_from(sorted(SIZES)))
def test_drift_inside_the_band_moves_an_answer_no_farther_than_the_band(share: float, seed: int, which: str) -> None:
    sizes = SIZES[which]
    replies = honest(sizes.replicas)
    lean = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    for place, peer in enumerate(PEERS[: sizes.faulty]):
        truth = computed(place)["y"]
        replies[peer.id] = reply(peer, {"y": truth + share * TOLERANCE * lean * truth.abs().amax(1, keepdim=True)})
    judgement = judged(replies, sizes)
    assert judgement.finding.passed
    assert off(judgement) <= 2 * TOLERANCE


def test_who_was_not_asked_has_no_vote() -> None:
    """However many identities somebody made for himself (Sybils): the nonce draws who is asked."""
    sizes = with_deadlines(1)
    replies = honest(2)
    replies |= {sybil.id: reply(sybil, {"y": -computed(0)["y"]}) for sybil in SYBILS}
    judgement = judged(replies, sizes)
    assert off(judgement) < TOLERANCE
    assert judgement.finding.measured == 2
    assert {fault.node for fault in judgement.faults} == {PEERS[2].id}


def test_nobody_is_asked_twice() -> None:
    with pytest.raises(ValueError, match="asked twice"):
        judge(QUESTION, [PEERS[0].id] * 3, honest(1), with_deadlines(1), TOLERANCE)


def test_two_quorums_against_one_another_are_no_answer() -> None:
    sizes = Sizes(5, 1, 2)
    replies = faulty(collusion, 2, sizes)
    judgement = judged(replies, sizes)
    assert judgement.vote.outcome is Outcome.SPLIT
    assert judgement.answer is None
    assert judgement.faults == (), "nobody knows who is right"
    assert {fault.node for fault in judged(replies, sizes, reference=TRUTH).faults} == {p.id for p in PEERS[:2]}


def test_where_bits_are_equal_a_rounding_is_a_disagreement() -> None:
    sizes = with_deadlines(1)
    same = {peer.id: reply(peer, computed(0)) for peer in PEERS[:3]}
    assert judged(same, sizes, exact=True).faults == ()
    same[PEERS[1].id] = reply(PEERS[1], computed(1))
    assert [fault.node for fault in judged(same, sizes, exact=True).faults] == [PEERS[1].id]
    assert judged(same, sizes).faults == ()


def test_a_reply_that_is_left_out_later_leaves_a_trace() -> None:
    """Who keeps the answers cannot drop one: the others have signed that they were shown its commitment."""
    sizes, replies = with_deadlines(1), honest(3)
    asked = [peer.id for peer in PEERS[:3]]
    kept = opened(asked, replies)
    del kept[PEERS[2].id]
    judgement = judge(QUESTION, asked, kept, sizes, TOLERANCE)
    assert judgement.answer is None
    assert not judgement.finding.passed


def test_tensors_that_one_has_sent_stand_for_all_that_revealed_their_digest() -> None:
    sizes = with_deadlines(1)
    same = {peer.id: reply(peer, computed(0)) for peer in PEERS[:3]}
    one_sent = {node: replace(each, tensors=None) if node != PEERS[2].id else each for node, each in same.items()}
    judgement = judged(one_sent, sizes)
    assert judgement.finding == judged(same, sizes).finding
    assert judgement.faults == ()
    assert off(judgement) < TOLERANCE


def test_without_tensors_equal_digests_are_enough_for_who_says_so() -> None:
    sizes = with_deadlines(1)
    same = {peer.id: reply(peer, computed(0)) for peer in PEERS[:3]}
    none_sent = {node: replace(each, tensors=None) for node, each in same.items()}
    assert not judged(none_sent, sizes).finding.passed
    by_digest = judged(none_sent, sizes, by_digest=True)
    assert by_digest.finding == judged(same, sizes).finding
    assert by_digest.answer.tensors is None
    assert judged(none_sent, sizes, by_digest=True, reference=TRUTH).faults == (), "nobody is called a liar unheard"
    one_lies = {**none_sent, PEERS[0].id: replace(reply(PEERS[0], {"y": -computed(0)["y"]}), tensors=None)}
    assert not judged(one_lies, sizes, by_digest=True).finding.passed


# Equivocation


def claimed(peer: Identity, tensors: Mapping[str, Tensor], question: Question = QUESTION) -> SignedClaim:
    sealed = commit(peer, Claim(question, tensors_digest(tensors)), b"s" * 32)
    shown = [sealed.commitment, b"c" * 32]
    return SignedClaim(peer.public_key, sealed.claim, together(shown), sealed.open(shown).signature)


def test_two_answers_to_one_question_convict() -> None:
    one, other = claimed(PEERS[0], computed(0)), claimed(PEERS[0], computed(1))
    fault = equivocation(one, other)
    assert fault is not None
    assert (fault.node, fault.kind, fault.proof) == (PEERS[0].id, FaultKind.EQUIVOCATED, (one, other))


def test_two_answers_to_two_clients_convict_if_they_are_farther_apart_than_rounding() -> None:
    elsewhere = replace(QUESTION, nonce=b"N" * 32, task=b"T" * 16)
    one, other = claimed(PEERS[0], computed(0)), claimed(PEERS[0], {"y": -computed(0)["y"]}, elsewhere)
    assert equivocation(one, other, 2.0, TOLERANCE) is not None
    assert equivocation(one, other, float("nan"), TOLERANCE) is not None
    assert equivocation(one, other, 1e-6, TOLERANCE) is None, "the same machine may round differently another time"
    assert equivocation(one, other) is None
    another_input = claimed(PEERS[0], computed(1), replace(elsewhere, inputs=b"I" * 32))
    assert equivocation(one, another_input, 2.0, TOLERANCE) is None


def test_honest_answers_and_those_of_two_peers_convict_nobody() -> None:
    one = claimed(PEERS[0], computed(0))
    assert equivocation(one, claimed(PEERS[0], computed(0))) is None
    assert equivocation(one, claimed(PEERS[1], computed(1)), 2.0) is None
    with pytest.raises(Malformed):
        equivocation(one, replace(claimed(PEERS[0], computed(1)), signature=bytes(64)))


# Links, models, epochs


def test_what_does_not_fit_together_is_found() -> None:
    assert linked(QUESTION, b"i" * 32).passed
    assert not linked(QUESTION, b"I" * 32).passed
    assert pinned(QUESTION, (b"m" * 32).hex()).passed
    assert not pinned(QUESTION, (b"M" * 32).hex()).passed
    assert not pinned(QUESTION, "").passed
    assert fresh(QUESTION, 7).passed
    assert not fresh(QUESTION, 8).passed
