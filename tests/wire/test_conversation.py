"""What is said when models are used: a value that breaks a rule cannot be made, so nobody has to check it again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal
from decentral.wire.conversation import (
    MAX_COMMITMENTS,
    MAX_KEYS,
    Challenge,
    Commitment,
    Keys,
    Open,
    Proof,
    Reveal,
    Shown,
    Terms,
)

DIGESTS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5, unique=True)


@given(DIGESTS)
def test_commitments_are_shown_in_one_order(commitments: list[bytes]) -> None:
    assert Open(tuple(sorted(commitments))).commitments == tuple(sorted(commitments))
    if len(commitments) > 1:
        with pytest.raises(Malformed):
            Open(tuple(sorted(commitments, reverse=True)))


@given(DIGESTS)
def test_no_commitment_is_shown_twice(commitments: list[bytes]) -> None:
    with pytest.raises(Malformed):
        Open(tuple(sorted([*commitments, commitments[0]])))


def test_a_proof_has_bytes() -> None:
    assert Proof(b"p").evidence == b"p"
    with pytest.raises(Malformed):
        Proof(b"")


@pytest.mark.parametrize("many", [0, MAX_COMMITMENTS + 1])
def test_neither_none_nor_too_many_commitments_are_shown(many: int) -> None:
    with pytest.raises(Malformed) as refused:
        Open(tuple(number.to_bytes(32, "big") for number in range(many)))
    assert refused.value.reason is Refusal.TOO_LARGE
    Open(tuple(number.to_bytes(32, "big") for number in range(MAX_COMMITMENTS)))


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (Terms, (bytes(16), bytes(32), 0)),
        (Terms, (bytes(16), bytes(32), 2**63 - 1)),
        (Commitment, (bytes(32),)),
        (Open, ((bytes(32),),)),
        (Reveal, (bytes(32), bytes(32), bytes(32), bytes(64))),
    ],
)
def test_every_field_has_one_length(kind: Any, good: tuple[Any, ...]) -> None:
    kind(*good)
    for place, value in enumerate(good):
        for wrong in broken(value):
            with pytest.raises(Malformed):
                kind(*good[:place], wrong, *good[place + 1 :])


def broken(value: Any) -> list[Any]:
    if isinstance(value, int):
        return [-1, 2**63]
    if isinstance(value, tuple):
        return [(value[0] + b"x",), (value[0][1:],)]
    return [value + b"x", value[1:], b""]


def test_what_is_said_before_all_conversations_has_one_form() -> None:
    assert Challenge(bytes(32)).nonce == bytes(32)
    assert Keys(bytes(MAX_KEYS)).sealed == bytes(MAX_KEYS)
    assert Shown(b"q").evidence == b"q"
    with pytest.raises(Malformed):
        Challenge(bytes(31))
    with pytest.raises(Malformed):
        Shown(b"")
    for keys in (b"", bytes(MAX_KEYS + 1)):
        with pytest.raises(Malformed):
            Keys(keys)
