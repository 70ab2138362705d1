"""What peers say of peers, as protobuf and back. A decoded membership record is a verified one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from decentral.errors import Malformed, Refusal
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, peer_id, verify_record
from decentral.wire.limits import MAX_ADDRESS, MAX_AGE, MAX_HASH, MAX_NUMBER, Limits
from decentral.wire.messages import MembershipRecord, MembershipStatus, News
from decentral.wire.v1 import messages_pb2 as pb


def record_out(record: MembershipRecord) -> pb.MembershipRecord:
    return pb.MembershipRecord(
        public_key=record.public_key,
        status=f"MEMBERSHIP_STATUS_{record.status.name}",
        counter=record.counter,
        address=record.address,
        first_round=record.first_round,
        signature=record.signature,
    )


def record_in(record: pb.MembershipRecord) -> MembershipRecord:
    """Raises Malformed."""
    if len(record.public_key) != PUBLIC_KEY_BYTES or len(record.signature) != SIGNATURE_BYTES:
        raise Malformed(Refusal.MALFORMED, "a membership record whose key or signature has another length")
    if record.status not in (MembershipStatus.JOIN.value, MembershipStatus.LEAVE.value):
        raise Malformed(Refusal.MALFORMED, "a membership record that neither joins nor leaves")
    value = MembershipRecord(
        peer=peer_id(record.public_key),
        public_key=record.public_key,
        status=MembershipStatus(record.status),
        counter=number(record.counter),
        address=text(record.address, MAX_ADDRESS),
        first_round=number(record.first_round),
        signature=record.signature,
    )
    verify_record(value)
    return value


def records_in(records: Iterable[pb.MembershipRecord], limits: Limits) -> tuple[MembershipRecord, ...]:
    """Raises Malformed."""
    records = list(records)
    if len(records) > limits.records:
        raise Malformed(Refusal.TOO_LARGE, f"{len(records)} membership records; the limit is {limits.records}")
    return tuple(map(record_in, records))


def news_out(news: News, round: int) -> pb.News:
    """As part of a message of `round`, which no sighting is later than. Those of ages ago are left out."""
    ages = round - news.rounds
    told = ages <= MAX_AGE
    peers = news.peers[told]
    bits = np.zeros(peers[-1] + 1 if len(peers) else 0, np.bool_)
    bits[peers] = True
    return pb.News(
        records=map(record_out, news.records),
        seen=np.packbits(bits, bitorder="little").tobytes(),
        ages=ages[told].astype("<u2").tobytes(),
        recipe_hash=news.recipe_hash,
    )


def news_in(news: pb.News, round: int, limits: Limits) -> News:
    """Raises Malformed."""
    if 8 * (len(news.seen) - 1) >= limits.records:
        raise Malformed(Refusal.TOO_LARGE, f"news of {8 * len(news.seen)} peers; the limit is {limits.records}")
    peers = np.flatnonzero(np.unpackbits(np.frombuffer(news.seen, np.uint8), bitorder="little"))
    if len(news.ages) != 2 * len(peers):
        raise Malformed(Refusal.MALFORMED, f"news of {len(peers)} peers with {len(news.ages)} bytes of ages")
    ages = np.frombuffer(news.ages, "<u2").astype(np.int64)
    if len(peers) and (peers[-1] >= limits.records or ages.max() > round):
        raise Malformed(Refusal.MALFORMED, "news of a peer that no plan has, or of a round before the first")
    return News(records_in(news.records, limits), peers, round - ages, text(news.recipe_hash, MAX_HASH))


def text(value: str, limit: int) -> str:
    """Raises Malformed if it takes more than `limit` bytes."""
    if len(value.encode()) > limit:
        raise Malformed(Refusal.TOO_LARGE, f"a text of more than {limit} bytes")
    return value


def number(value: int) -> int:
    """Raises Malformed if it does not fit into 63 bits."""
    if value >= MAX_NUMBER:
        raise Malformed(Refusal.MALFORMED, "a number that is out of range")
    return value
