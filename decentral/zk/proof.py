"""Proofs in the one form in which they are kept, sent and checked.

ezkl's own files hold more than a proof covers, and ezkl accepts bytes after the end. Here stand the instances (the
public field elements) and the raw proof, each after its length, and nothing else:

    magic   count (4 bytes)   instances (32 each, little-endian, below the modulus)   length (4 bytes)   proof
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from decentral.errors import Malformed, Refusal

MAGIC = b"decentral zk proof v1\0"
FELT, POINT = 32, 64
"""Bytes of a field element, and of a commitment in a proof."""
MODULUS = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Of BN254's scalar field."""
LARGEST = 1 << 24
"""Bytes of a proof, and of its instances, that are looked at."""
ODD = 0x80
"""In the last byte of a compressed point: y is odd."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Field elements as numbers below the modulus, and what ezkl made."""

    instances: tuple[int, ...]
    proof: bytes

    def __post_init__(self) -> None:
        if any(not 0 <= value < MODULUS for value in self.instances):
            raise Malformed(Refusal.MALFORMED, "an instance that is no element of the field")
        if max(len(self.proof), len(self.instances) * FELT) > LARGEST:
            raise Malformed(Refusal.TOO_LARGE, "a proof that is longer than any")

    def encoded(self) -> bytes:
        instances = b"".join(value.to_bytes(FELT, "little") for value in self.instances)
        return b"".join(
            (MAGIC, len(self.instances).to_bytes(4, "big"), instances, len(self.proof).to_bytes(4, "big"), self.proof)
        )

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """Raises Malformed unless `data` is exactly what `encoded` gives."""
        if not data.startswith(MAGIC):
            raise Malformed(Refusal.MALFORMED, "no proof")
        rest = data[len(MAGIC) :]
        count = int.from_bytes(rest[:4], "big")
        after = 4 + count * FELT
        if after > LARGEST or len(rest) < after + 4:
            raise Malformed(Refusal.MALFORMED, "a proof that ends within its instances")
        length = int.from_bytes(rest[after : after + 4], "big")
        if len(rest) != after + 4 + length:
            raise Malformed(Refusal.MALFORMED, f"a proof of {length} bytes in {len(rest) - after - 4}")
        values = (int.from_bytes(rest[start : start + FELT], "little") for start in range(4, after, FELT))
        found = cls(tuple(values), rest[after + 4 :])
        if found.encoded() != data:
            raise Malformed(Refusal.MALFORMED, "a proof that is not in the one form in which it is written")
        return found

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.encoded()).digest()

    def points(self, start: int, count: int) -> tuple[bytes, ...]:
        """Commitments number `start` and following, 64 bytes each. Raises Malformed where the proof ends before."""
        if len(self.proof) < (start + count) * POINT:
            raise Malformed(Refusal.MALFORMED, "a proof that ends within its commitments")
        return tuple(self.proof[place * POINT : (place + 1) * POINT] for place in range(start, start + count))


def compressed(point: bytes) -> bytes:
    """A commitment of a proof as witnesses write it: x in little-endian, and whether y is odd."""
    x = bytearray(point[: POINT // 2][::-1])
    x[-1] |= ODD * (point[-1] & 1)
    return bytes(x)


def felt(text: str) -> int:
    """A field element as ezkl writes it. Raises Malformed."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    value = int.from_bytes(raw, "little")
    if len(raw) != FELT or raw.hex() != text or value >= MODULUS:
        raise Malformed(Refusal.MALFORMED, f"{text[:20]!r} is no field element")
    return value


def felt_text(value: int) -> str:
    return value.to_bytes(FELT, "little").hex()


def signed(value: int) -> int:
    """The whole number that a field element stands for: those above half the field are negative."""
    return value - MODULUS if value > MODULUS // 2 else value
