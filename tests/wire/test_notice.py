"""Notices are believed for their signature and their number alone, and nobody goes back to an older one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.identity import Identity
from decentral.wire.issuing import Issuer
from decentral.wire.messages import PeerId
from decentral.wire.notice import (
    LATEST,
    MOST_BYTES,
    MOST_REASON,
    MOST_RULINGS,
    Admitted,
    Notice,
    Ruling,
    in_der,
    read_notice,
)
from decentral.wire.v1 import authority_pb2 as pb

PEERS = [Identity.from_seed(bytes([number])).id for number in range(6)]
ALICE = Identity.from_seed(b"alice")
times = st.integers(0, LATEST)


@cache
def issuer(number: int = 0) -> Issuer:
    return Issuer.new()


def notice(sequence: int = 1, *rulings: Ruling, **more: int) -> Notice:
    return Notice(sequence, int(time.time()), (issuer().der,), rulings, **more)


@cache
def sample() -> tuple[Notice, bytes]:
    said = notice(3, Ruling(PEERS[0], revoked=5, reason="left"))
    return said, said.signed(issuer().key)


def resigned(said: pb.Notice) -> bytes:
    """What our own code would not write, with a signature that holds."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    from decentral.wire.notice import PURPOSE

    data = said.SerializeToString()
    signature = issuer().key.sign(PURPOSE + data, ec.ECDSA(hashes.SHA256()))
    return pb.SignedNotice(notice=data, signature=signature).SerializeToString()


@st.composite
def notices(draw: st.DrawFn) -> Notice:
    peers = sorted(draw(st.sets(st.sampled_from(PEERS))))
    reasons = st.text("abc é", max_size=MOST_REASON)
    rulings = tuple(Ruling(peer, draw(times), draw(times), draw(times), draw(reasons)) for peer in peers)
    made = draw(st.integers(0, 2**30))
    return Notice(draw(st.integers(1, LATEST)), made, (issuer().der, issuer(1).der), rulings, draw(times), draw(times))


@given(notices())
def test_what_an_authority_has_signed_is_read_as_it_was_written(said: Notice) -> None:
    assert read_notice(said.signed(issuer().key), issuer().pem) == said


@given(st.data())
def test_no_byte_of_a_notice_can_be_changed(data: st.DataObject) -> None:
    said, signed = sample()
    whole = bytearray(signed)
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        assert read_notice(bytes(whole), issuer().pem) == said  # a field number that nobody reads, at most
    except Malformed as error:
        assert error.reason in {Refusal.MALFORMED, Refusal.SIGNATURE}


@given(st.binary(max_size=200))
def test_bytes_of_somebody_else_are_no_notice(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_notice(data, issuer().pem)


def test_the_word_of_an_authority_that_does_not_count_is_worth_nothing() -> None:
    said = notice().signed(issuer(1).key)
    with pytest.raises(Malformed) as refused:
        read_notice(said, issuer().pem)
    assert refused.value.reason is Refusal.SIGNATURE
    assert read_notice(said, issuer().pem + issuer(1).pem).sequence == 1


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0},
        {"sequence": LATEST + 1},
        {"time": int(time.time()) + 10 * 24 * 3600},
        {"renew": LATEST + 1},
        {"authorities": []},
        {"authorities": [b"no certificate"]},
        {"authorities": [issuer().der] * 3},
        {"rulings": [pb.Ruling(peer="somebody")]},
        {"rulings": [pb.Ruling(peer=peer) for peer in sorted(PEERS, reverse=True)]},
        {"rulings": [pb.Ruling(peer=PEERS[0]), pb.Ruling(peer=PEERS[0])]},
        {"rulings": [pb.Ruling(peer=PEERS[0], revoked=LATEST + 1)]},
        {"rulings": [pb.Ruling(peer=PEERS[0], reason="x" * (MOST_REASON + 1))]},
    ],
)
def test_a_notice_that_breaks_a_rule_is_refused_whoever_signed_it(change: dict[str, object]) -> None:
    whole: dict[str, object] = {"sequence": 1, "time": 1, "authorities": [issuer().der]}
    assert read_notice(resigned(pb.Notice(**whole)), issuer().pem).time == 1  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        read_notice(resigned(pb.Notice(**{**whole, **change})), issuer().pem)  # type: ignore[arg-type]


def test_what_is_too_large_is_neither_written_nor_read() -> None:
    many = tuple(Ruling(PeerId(f"{number:052d}".translate(str.maketrans("0189", "abcd")))) for number in range(4200))
    with pytest.raises(ValueError, match="more than anybody reads"):
        notice(1, *many[: MOST_RULINGS + 1]).signed(issuer().key)
    with pytest.raises(Malformed) as refused:
        read_notice(bytes(MOST_BYTES + 1), issuer().pem)
    assert refused.value.reason is Refusal.TOO_LARGE


@given(st.lists(st.integers(1, 9), min_size=1))
def test_the_highest_number_holds_in_whatever_order_they_come(numbers: list[int]) -> None:
    admitted = Admitted()
    for number in numbers:
        newer = number > admitted.sequence
        assert admitted.take(notice(number, Ruling(PEERS[0], revoked=number))) == newer
    assert admitted.sequence == max(numbers) and admitted.barred(PEERS[0])


def test_an_older_notice_makes_nobody_admitted_again() -> None:
    before, after = notice(1), notice(2, Ruling(PEERS[0], revoked=1))
    admitted = Admitted()
    assert admitted.take(before) and not admitted.barred(PEERS[0])
    assert admitted.take(after) and admitted.barred(PEERS[0])
    assert not admitted.take(before) and not admitted.take(replace(before, sequence=2))
    assert admitted.barred(PEERS[0]) and admitted.revoked == {PEERS[0]}


def test_who_counts_is_asked_of_a_certificate(authority: Authority, certify: Callable[..., Credentials]) -> None:
    shown = certify(authority, ALICE)
    for said, reason in (
        (None, None),
        (notice(1), None),
        (notice(1, Ruling(ALICE.id, renew=LATEST)), None),
        (notice(1, Ruling(ALICE.id, refuse=int(shown.issued))), None),
        (notice(1, Ruling(PEERS[0], revoked=1, refuse=LATEST)), None),
        (notice(1, Ruling(ALICE.id, refuse=int(shown.issued) + 1)), Refusal.EXPIRED),
        (notice(1, refuse=int(shown.issued) + 1), Refusal.EXPIRED),
        (notice(1, Ruling(ALICE.id, revoked=LATEST)), Refusal.REVOKED),
    ):
        admitted = Admitted(said)
        if reason is None:
            assert admitted.peer_of(shown.certificate) == ALICE.id
            continue
        with pytest.raises(Malformed) as refused:
            admitted.peer_of(shown.certificate)
        assert refused.value.reason is reason


def test_what_holds_for_one_peer_is_no_less_than_what_holds_for_all() -> None:
    said = notice(1, Ruling(PEERS[0], renew=5, refuse=2, revoked=3, reason="why"), renew=4, refuse=4)
    assert said.of(PEERS[0]) == Ruling(PEERS[0], 5, 4, 3, "why")
    assert said.of(PEERS[1]) == Ruling(PEERS[1], 4, 4)


def test_certificates_of_authorities_keep_their_order() -> None:
    said = replace(notice(), authorities=(issuer().der, issuer(1).der))
    assert said.pem == issuer().pem + issuer(1).pem and in_der(said.pem) == said.authorities
