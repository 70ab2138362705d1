"""Messages as bytes and back: protobuf by the schema in `protos/`, limits checked before anything is built.

Models have a codec of their own (`tensors`), because they travel as a stream. A decoded membership record is a
verified one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf

from decentral.errors import Malformed, Refusal
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, peer_id, verify_record
from decentral.wire.limits import MAX_ADDRESS, MAX_HASH, MAX_LETTER, MAX_NUMBER, Limits
from decentral.wire.messages import (
    Join,
    Leave,
    Membership,
    MembershipRecord,
    MembershipStatus,
    Message,
    Model,
    Ping,
    Pong,
    Traffic,
    Welcome,
)
from decentral.wire.tensors import encoded
from decentral.wire.v1 import messages_pb2 as pb
from decentral.wire.v1 import peer_pb2

Letter = Join | Ping | Membership | Leave
"""What is sent whole, and may be answered."""

Answer = Welcome | Pong | Membership

P = TypeVar("P", bound=Protobuf)

_LETTERS: dict[type[Message], type[Protobuf]] = {
    Join: pb.Join,
    Ping: pb.Ping,
    Membership: pb.Membership,
    Leave: pb.Leave,
}


def message_size(message: Message) -> int:
    """Bytes after encoding, as they are counted in every world: gRPC's and TLS's own framing is left out."""
    match message:
        case Model():
            return encoded(message).size
        case Welcome() | Pong():
            return len(encode_answer(message))
        case _:
            return len(encode_letter(message))


def traffic_of(message: Message) -> Traffic:
    """What the bytes of a message are counted as."""
    return Traffic.MODEL if isinstance(message, Model) else Traffic.CONTROL


def encode_letter(letter: Message, *, only_deliver: bool = False) -> bytes:
    """Raises TypeError for what is no letter: models travel as streams, and answers only answer."""
    message: pb.Join | pb.Ping | pb.Membership | pb.Leave
    match letter:
        case Join(record, recipe_hash, schema_hash, version):
            message = pb.Join(
                protocol_version=version, recipe_hash=recipe_hash, schema_hash=schema_hash, record=_record_out(record)
            )
        case Ping(round_):
            message = pb.Ping(round=round_)
        case Membership(records):
            message = pb.Membership(records=map(_record_out, records))
        case Leave(record):
            message = pb.Leave(record=_record_out(record))
        case _:
            raise TypeError(f"a {type(letter).__name__} cannot be sent as a letter")
    message.only_deliver = only_deliver
    return message.SerializeToString()


def decode_letter(kind: type[Message], data: bytes, limits: Limits) -> tuple[Letter, bool]:
    """The message, and whether its sender waits for delivery only. Raises Malformed."""
    message = _parse(_LETTERS[kind], data)
    letter: Letter
    match message:
        case pb.Join():
            hashes = _text(message.recipe_hash, MAX_HASH), _text(message.schema_hash, MAX_HASH)
            letter = Join(_record_in(message.record), *hashes, protocol_version=message.protocol_version)
        case pb.Ping():
            letter = Ping(_number(message.round))
        case pb.Membership():
            letter = Membership(_records_in(message.records, limits))
        case pb.Leave():
            letter = Leave(_record_in(message.record))
        case _:
            raise TypeError(f"{kind.__name__} is not a letter")
    return letter, bool(message.only_deliver)


def encode_answer(answer: Message | None) -> bytes:
    """None says that the letter was delivered."""
    match answer:
        case None:
            reply = peer_pb2.Reply()
        case Welcome(round_, records):
            reply = peer_pb2.Reply(welcome=pb.Welcome(round=round_, records=map(_record_out, records)))
        case Pong(round_):
            reply = peer_pb2.Reply(pong=pb.Pong(round=round_))
        case Membership(records):
            reply = peer_pb2.Reply(membership=pb.Membership(records=map(_record_out, records)))
        case _:
            raise TypeError(f"a {type(answer).__name__} is not an answer")
    return reply.SerializeToString()


def decode_answer(data: bytes, limits: Limits) -> Answer | None:
    """Raises Malformed."""
    reply = _parse(peer_pb2.Reply, data)
    match reply.WhichOneof("answer"):
        case "welcome":
            return Welcome(_number(reply.welcome.round), _records_in(reply.welcome.records, limits))
        case "pong":
            return Pong(_number(reply.pong.round))
        case "membership":
            return Membership(_records_in(reply.membership.records, limits))
        case _:
            return None


def _parse(kind: type[P], data: bytes) -> P:
    if len(data) > MAX_LETTER:
        raise Malformed(Refusal.TOO_LARGE, f"a {kind.__name__} of {len(data)} bytes; the limit is {MAX_LETTER}")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Malformed(Refusal.MALFORMED, f"not a {kind.__name__}") from error


def _record_out(record: MembershipRecord) -> pb.MembershipRecord:
    return pb.MembershipRecord(
        public_key=record.public_key,
        status=f"MEMBERSHIP_STATUS_{record.status.name}",
        counter=record.counter,
        address=record.address,
        first_round=record.first_round,
        signature=record.signature,
    )


def _record_in(record: pb.MembershipRecord) -> MembershipRecord:
    if len(record.public_key) != PUBLIC_KEY_BYTES or len(record.signature) != SIGNATURE_BYTES:
        raise Malformed(Refusal.MALFORMED, "a membership record whose key or signature has another length")
    if record.status not in (MembershipStatus.JOIN.value, MembershipStatus.LEAVE.value):
        raise Malformed(Refusal.MALFORMED, "a membership record that neither joins nor leaves")
    value = MembershipRecord(
        peer=peer_id(record.public_key),
        public_key=record.public_key,
        status=MembershipStatus(record.status),
        counter=_number(record.counter),
        address=_text(record.address, MAX_ADDRESS),
        first_round=_number(record.first_round),
        signature=record.signature,
    )
    verify_record(value)
    return value


def _records_in(records: Iterable[pb.MembershipRecord], limits: Limits) -> tuple[MembershipRecord, ...]:
    records = list(records)
    if len(records) > limits.records:
        raise Malformed(Refusal.TOO_LARGE, f"{len(records)} membership records; the limit is {limits.records}")
    return tuple(map(_record_in, records))


def _text(text: str, limit: int) -> str:
    if len(text.encode()) > limit:
        raise Malformed(Refusal.TOO_LARGE, f"a text of more than {limit} bytes")
    return text


def _number(number: int) -> int:
    if number >= MAX_NUMBER:
        raise Malformed(Refusal.MALFORMED, "a number that is out of range")
    return number
