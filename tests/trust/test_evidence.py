"""What was committed to cannot be changed, copied, replayed or denied."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed
from decentral.trust import evidence
from decentral.trust.evidence import (
    ANSWER,
    Claim,
    Fault,
    FaultKind,
    Question,
    Reply,
    Sealed,
    SignedClaim,
    commit,
    commitment,
    tensors_digest,
    together,
)
from decentral.wire.identity import Identity, verify

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
QUESTION = Question(b"t" * 16, "stage-1", b"m" * 32, b"i" * 32, b"n" * 32, 7)
CLAIM = Claim(QUESTION, b"o" * 32)
OTHERS = {
    "task": b"T" * 16,
    "part": "stage-2",
    "model": b"M" * 32,
    "inputs": b"I" * 32,
    "nonce": b"N" * 32,
    "epoch": 8,
}

questions = st.builds(
    Question,
    st.binary(min_size=16, max_size=16),
    st.text(min_size=1, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**63 - 1),
)


def signed(identity: Identity = ALICE, claim: Claim = CLAIM) -> SignedClaim:
    sealed = commit(identity, claim, b"s" * 32)
    return SignedClaim(identity.public_key, claim, together(shown(sealed)), sealed.open(shown(sealed)).signature)


def shown(sealed: Sealed) -> list[bytes]:
    return [b"c" * 32, sealed.commitment]


@given(questions, questions)
def test_distinct_questions_have_distinct_bytes(one: Question, other: Question) -> None:
    assert (one.encoded() == other.encoded()) == (one == other)


def test_an_honest_commitment_opens_and_is_signed_by_who_made_it() -> None:
    sealed = commit(ALICE, CLAIM, b"s" * 32)
    reveal = sealed.open(shown(sealed))
    assert commitment(Claim(QUESTION, reveal.output), ALICE.id, reveal.salt) == sealed.commitment
    assert signed().signer() == ALICE.id


@pytest.mark.parametrize("field", OTHERS)
def test_nothing_that_was_signed_holds_for_another_question(field: str) -> None:
    other = replace(QUESTION, **{field: OTHERS[field]})
    sealed = commit(ALICE, CLAIM, b"s" * 32)
    assert commitment(Claim(other, CLAIM.output), ALICE.id, sealed.salt) != sealed.commitment
    with pytest.raises(Malformed):
        replace(signed(), claim=Claim(other, CLAIM.output)).signer()


def test_a_commitment_opens_for_its_maker_salt_and_output_alone() -> None:
    made = commit(ALICE, CLAIM, b"s" * 32).commitment
    assert commitment(CLAIM, BOB.id, b"s" * 32) != made
    assert commitment(CLAIM, ALICE.id, b"z" * 32) != made
    assert commitment(Claim(QUESTION, b"p" * 32), ALICE.id, b"s" * 32) != made


def test_signatures_serve_one_purpose_and_one_key() -> None:
    for lie in (
        replace(signed(), public_key=BOB.public_key),
        replace(signed(), signature=ALICE.sign("membership", CLAIM.encoded(ALICE.id))),
        replace(signed(), signature=ALICE.sign(ANSWER, CLAIM.encoded(BOB.id))),
        replace(signed(), claim=Claim(QUESTION, b"p" * 32)),
        replace(signed(), shown=together([b"c" * 32])),
    ):
        with pytest.raises(Malformed):
            lie.signer()


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": b"t"},
        {"model": b""},
        {"inputs": b"i" * 33},
        {"nonce": b"n" * 31},
        {"part": ""},
        {"part": "x" * 65},
        {"epoch": -1},
        {"epoch": 2**63},
    ],
)
def test_fields_of_another_form_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        replace(QUESTION, **wrong)


def test_nothing_is_opened_for_one_who_has_not_taken_the_commitment() -> None:
    sealed = commit(ALICE, CLAIM, b"s" * 32)
    with pytest.raises(Malformed, match="not among those"):
        sealed.open([b"c" * 32])


@given(st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=5), st.randoms())
def test_commitments_are_digested_in_whatever_order_they_came(commitments: list[bytes], random: Random) -> None:
    shuffled = random.sample(commitments, len(commitments))
    assert together(shuffled) == together(commitments) == together([*commitments, *shuffled[:1]])
    assert together([*commitments, b"another"]) != together(commitments)


def test_a_short_salt_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        commit(ALICE, CLAIM, b"short")


def test_a_digest_is_that_of_names_types_shapes_and_bits() -> None:
    one = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([2])}
    assert tensors_digest(one) == tensors_digest({"b": one["b"].clone(), "a": one["a"].clone()})
    lies = [
        {"a": torch.tensor([-0.0, 1.0]), "b": one["b"]},
        {"a": one["a"].double(), "b": one["b"]},
        {"a": one["a"].reshape(1, 2), "b": one["b"]},
        {"c": one["a"], "b": one["b"]},
        {"a": one["a"]},
    ]
    assert len({tensors_digest(one), *map(tensors_digest, lies)}) == 1 + len(lies)


def test_what_was_sent_is_hashed_once_and_never_taken_from_another_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = {"y": torch.zeros(2)}, {"y": torch.ones(2)}
    hashed: list[object] = []

    def counted(tensors: dict[str, torch.Tensor]) -> bytes:
        hashed.append(tensors)
        return tensors_digest(tensors)

    monkeypatch.setattr(evidence, "tensors_digest", counted)
    reply = Reply(tensors=one)
    assert reply.sent == reply.sent == tensors_digest(one)
    assert len(hashed) == 1
    assert replace(reply, tensors=other).sent == tensors_digest(other)
    assert replace(reply, tensors=None).sent is None


def test_a_signature_is_verified_once_for_each_question_and_what_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = commit(ALICE, Claim(QUESTION, b"o" * 32), b"s" * 32)
    reply, shown = Reply(sealed.commitment, sealed.open([sealed.commitment])), together([sealed.commitment])
    verified: list[bytes] = []

    def counted(public_key: bytes, purpose: str, content: bytes, signature: bytes) -> str:
        verified.append(content)
        return verify(public_key, purpose, content, signature)

    monkeypatch.setattr(evidence, "verify", counted)
    signed = reply.signed(QUESTION, shown)
    assert signed is not None
    assert reply.signed(QUESTION, shown) == signed
    assert len(verified) == 1
    others = ((replace(QUESTION, epoch=8), shown), (QUESTION, together([b"c" * 32])))
    for question, seen in others * 2:
        with pytest.raises(Malformed):
            reply.signed(question, seen)
    assert len(verified) == 1 + 2 * len(others), "what does not verify is not believed the second time"
    assert reply.reveal is not None
    with pytest.raises(Malformed):
        replace(reply, reveal=replace(reply.reveal, output=b"p" * 32)).signed(QUESTION, shown)
    assert replace(reply, reveal=None).signed(QUESTION, shown) is None


def test_nobody_is_called_a_liar_without_a_signature() -> None:
    for kind in (FaultKind.LIED, FaultKind.EQUIVOCATED):
        with pytest.raises(ValueError, match="without its signature"):
            Fault(ALICE.id, "stage-1", kind, "they say so")
        Fault(ALICE.id, "stage-1", kind, "it is written", (signed(),))
    with pytest.raises(ValueError, match="is no peer"):
        Fault("somebody", "stage-1", FaultKind.UNRESPONSIVE, "nothing came")
