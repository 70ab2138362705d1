"""Letters survive their encoding; what breaks a rule is refused by its kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal
from decentral.wire import codec
from decentral.wire.identity import Identity
from decentral.wire.limits import MAX_ADDRESS, MAX_HASH, MAX_LETTER, Limits
from decentral.wire.messages import (
    Join,
    Leave,
    Membership,
    MembershipRecord,
    MembershipStatus,
    Message,
    Model,
    News,
    Ping,
    Pong,
    Progress,
    Resend,
    Welcome,
)
from decentral.wire.v1 import messages_pb2 as pb
from decentral.wire.v1 import peer_pb2

NUMBERS = st.integers(0, (1 << 63) - 1)
RECORDS = st.builds(
    lambda seed, *fields: Identity.from_seed(seed).record(*fields),
    st.binary(max_size=4),
    st.sampled_from(MembershipStatus),
    NUMBERS,
    st.text(max_size=60),
    NUMBERS,
)
HASHES = st.text("0123456789abcdef", max_size=64)
MEMBERSHIPS = st.builds(lambda records: Membership(tuple(records)), st.lists(RECORDS, max_size=3))
LETTERS = st.one_of(
    st.builds(Ping, NUMBERS),
    st.builds(Join, RECORDS, HASHES, HASHES, st.integers(0, 99)),
    MEMBERSHIPS,
    st.builds(Leave, RECORDS),
    st.builds(Progress, NUMBERS),
    st.builds(Resend, NUMBERS),
)
NEWS = st.builds(
    lambda records, seen: News(
        tuple(records), np.array(sorted(seen), np.int64), np.array([seen[peer] for peer in sorted(seen)], np.int64)
    ),
    st.lists(RECORDS, max_size=2),
    st.dictionaries(st.integers(0, 4000), st.integers(0, 7), max_size=5),
)
ANSWERS = st.one_of(
    st.none(),
    st.builds(Pong, NUMBERS, NUMBERS),
    MEMBERSHIPS,
    st.builds(lambda round_, records: Welcome(round_, tuple(records)), NUMBERS, st.lists(RECORDS, max_size=3)),
    st.builds(lambda round_, news: Welcome(round_, news=news), st.integers(7, 1 << 15), NEWS),
)
RECORD = Identity.from_seed(b"alice").record(MembershipStatus.JOIN, 1, "127.0.0.1:7000", 2)


@given(LETTERS, st.booleans())
def test_a_letter_comes_back(letter: codec.Letter, only_deliver: bool) -> None:
    data = codec.encode_letter(letter, only_deliver=only_deliver)
    assert codec.decode_letter(type(letter), data, Limits()) == (letter, only_deliver)


@given(ANSWERS)
def test_an_answer_comes_back(answer: Message | None) -> None:
    assert codec.decode_answer(codec.encode_answer(answer), Limits()) == answer


@given(LETTERS)
def test_the_size_of_a_message_is_that_of_its_encoding(letter: codec.Letter) -> None:
    assert codec.message_size(letter) == len(codec.encode_letter(letter))


@given(st.sampled_from([Join, Ping, Membership, Progress, Resend, Leave]), st.binary(max_size=300))
def test_noise_is_decoded_or_refused(kind: type[codec.Letter], data: bytes) -> None:
    try:
        letter, _ = codec.decode_letter(kind, data, Limits())
    except Malformed:
        return
    assert isinstance(letter, kind)


def proto(record: MembershipRecord) -> pb.MembershipRecord:
    return pb.Leave.FromString(codec.encode_letter(Leave(record))).record


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("public_key", bytes(31), Refusal.MALFORMED),
        ("public_key", bytes(32), Refusal.SIGNATURE),
        ("signature", bytes(65), Refusal.MALFORMED),
        ("signature", bytes(64), Refusal.SIGNATURE),
        ("status", 0, Refusal.MALFORMED),
        ("status", 77, Refusal.MALFORMED),
        ("status", 2, Refusal.SIGNATURE),
        ("counter", (1 << 64) - 1, Refusal.MALFORMED),
        ("counter", 2, Refusal.SIGNATURE),
        ("first_round", 3, Refusal.SIGNATURE),
        ("address", "a" * (MAX_ADDRESS + 1), Refusal.TOO_LARGE),
        ("address", "127.0.0.1:7001", Refusal.SIGNATURE),
    ],
)
def test_a_record_is_only_taken_as_it_was_signed(field: str, value: object, reason: Refusal) -> None:
    record = proto(RECORD)
    setattr(record, field, value)
    with pytest.raises(Malformed) as malformed:
        codec.decode_letter(Leave, pb.Leave(record=record).SerializeToString(), Limits())
    assert malformed.value.reason is reason


def test_limits_hold_and_what_is_at_a_limit_passes() -> None:
    records = [proto(RECORD)] * 3
    three = pb.Membership(records=records).SerializeToString()
    assert codec.decode_letter(Membership, three, Limits(records=3))[0] == Membership((RECORD,) * 3)
    welcome = peer_pb2.Reply(welcome=pb.Welcome(records=records)).SerializeToString()
    long = pb.Join(record=records[0], recipe_hash="a" * (MAX_HASH + 1)).SerializeToString()
    for decode in (
        lambda: codec.decode_letter(Membership, three, Limits(records=2)),
        lambda: codec.decode_answer(welcome, Limits(records=2)),
        lambda: codec.decode_letter(Join, long, Limits()),
        lambda: codec.decode_letter(Ping, bytes(MAX_LETTER + 1), Limits()),
    ):
        with pytest.raises(Malformed) as malformed:
            decode()
        assert malformed.value.reason is Refusal.TOO_LARGE


def test_what_is_no_answer_is_not_encoded_as_one() -> None:
    for message in (Ping(0), Model(0, {})):
        with pytest.raises(TypeError):
            codec.encode_answer(message)
