"""A peer is who holds its key."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal, UserError
from decentral.wire.certificate import new_key, private_pem
from decentral.wire.identity import PEER_ID, Identity, peer_id, verify, verify_record
from decentral.wire.messages import MembershipStatus

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")


def test_a_peer_id_is_the_digest_of_the_public_key() -> None:
    padded = ALICE.id.upper() + "===="
    assert base64.b32decode(padded) == hashlib.sha256(ALICE.public_key).digest()
    assert PEER_ID.match(ALICE.id)
    assert ALICE.id == peer_id(ALICE.public_key) != BOB.id


def test_a_seed_gives_one_identity_and_generation_a_new_one() -> None:
    assert Identity.from_seed(b"alice").public_key == ALICE.public_key
    assert Identity.generate().id != Identity.generate().id


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_holds_for_its_key_purpose_and_content_only(content: bytes, bit: int) -> None:
    signature = ALICE.sign("evidence", content)
    assert verify(ALICE.public_key, "evidence", content, signature) == ALICE.id
    broken = bytearray(signature)
    broken[bit // 8] ^= 1 << bit % 8
    lies = [
        (BOB.public_key, "evidence", content, signature),
        (ALICE.public_key, "membership", content, signature),
        (ALICE.public_key, "evidence", content + b"\0", signature),
        (ALICE.public_key, "evidence", content, bytes(broken)),
        (ALICE.public_key, "evidence", content, signature[:-1]),
        (b"", "evidence", content, signature),
    ]
    for lie in lies:
        with pytest.raises(Malformed) as malformed:
            verify(*lie)
        assert malformed.value.reason is Refusal.SIGNATURE


FIELD = 2**255 - 19
EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
WEAK = {"1": 1, "2": FIELD - 1, "4": 0, "8": EIGHTH, "8, other half": FIELD - EIGHTH}
"""The y of the points of each order."""


@pytest.mark.parametrize("order", WEAK)
@pytest.mark.parametrize("sign", [0, 1])
def test_a_key_under_which_anybody_can_sign_is_nobody_s(order: str, sign: int) -> None:
    """OpenSSL takes the same bytes as the signature of every few statements under such a key."""
    key = (WEAK[order] + (sign << 255)).to_bytes(32, "little")
    signature = (1).to_bytes(64, "little")  # R is neutral, S is 0
    taken = 0
    for number in range(200):
        content = bytes([number])
        with pytest.raises(Malformed, match="anybody") as malformed:
            verify(key, "evidence", content, signature)
        assert malformed.value.reason is Refusal.SIGNATURE
        with contextlib.suppress(InvalidSignature, ValueError):
            Ed25519PublicKey.from_public_bytes(key).verify(signature, content)
            taken += 1
    assert taken, "there was nothing to refuse"


@pytest.mark.parametrize("ordinate", [FIELD, FIELD + 1])
def test_a_weak_key_written_beyond_the_field_is_nobody_s_either(ordinate: int) -> None:
    with pytest.raises(Malformed, match="anybody"):
        verify(ordinate.to_bytes(32, "little"), "evidence", b"", bytes(64))


def test_a_record_verifies_until_any_of_its_fields_is_changed() -> None:
    record = ALICE.record(MembershipStatus.JOIN, 4, "127.0.0.1:9000", 2)
    verify_record(record)
    lies = {
        "peer": BOB.id,
        "public_key": BOB.public_key,
        "status": MembershipStatus.LEAVE,
        "counter": 5,
        "address": "127.0.0.1:9001",
        "first_round": 3,
        "signature": bytes(64),
    }
    assert lies.keys() == {field.name for field in dataclasses.fields(record)}
    for name, value in lies.items():
        with pytest.raises(Malformed):
            verify_record(dataclasses.replace(record, **{name: value}))


def test_a_saved_identity_is_private_and_comes_back(folder: Path) -> None:
    path = folder / "identity.key"
    ALICE.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load(path).id == ALICE.id


def test_an_identity_that_others_can_read_or_that_is_damaged_is_not_used(folder: Path) -> None:
    path = folder / "identity.key"
    with pytest.raises(UserError, match="No such file"):
        Identity.load(path)
    ALICE.save(path)
    path.chmod(0o640)
    with pytest.raises(UserError, match="other users"):
        Identity.load(path)
    path.chmod(0o600)
    for damaged in (b"", path.read_bytes()[:60], private_pem(new_key())):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not an Ed25519"):
            Identity.load(path)
