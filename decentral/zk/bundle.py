"""The proofs of a whole model about one input, and who made them, in the one form in which they are kept and sent."""

from __future__ import annotations

from dataclasses import dataclass

from decentral.errors import Malformed, Refusal
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from decentral.zk.binding import Binding
from decentral.zk.proof import Proof

MAGIC = b"decentral zk proofs v1\0"
MOST = 1 << 12
"""Circuits of a model."""
BINDING = PUBLIC_KEY_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class Bundle:
    """A proof of each circuit, in order. `bindings`: the word of each one's maker, or of none.

    magic   proofs (4 bytes)   bindings (4 bytes)   each proof after its length (4 bytes)   each binding
    """

    proofs: tuple[Proof, ...]
    bindings: tuple[Binding, ...] = ()

    def encoded(self) -> bytes:
        pieces = [MAGIC, len(self.proofs).to_bytes(4, "big"), len(self.bindings).to_bytes(4, "big")]
        for proof in self.proofs:
            data = proof.encoded()
            pieces += (len(data).to_bytes(4, "big"), data)
        return b"".join([*pieces, *(binding.encoded() for binding in self.bindings)])

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Raises Malformed unless `data` is exactly what `encoded` gives."""
        if not data.startswith(MAGIC):
            raise Malformed(Refusal.MALFORMED, "no proofs of a model")
        place = len(MAGIC) + 8
        count, signed = (int.from_bytes(data[place - back : place - back + 4], "big") for back in (8, 4))
        if max(count, signed) > MOST:
            raise Malformed(Refusal.TOO_LARGE, f"{count} proofs and {signed} signatures")
        proofs = []
        for _ in range(count):
            length = int.from_bytes(data[place : place + 4], "big")
            proofs.append(Proof.decode(data[place + 4 : place + 4 + length]))
            place += 4 + length
        places = range(place, place + signed * BINDING, BINDING)
        found = cls(tuple(proofs), tuple(Binding.decode(data[start : start + BINDING]) for start in places))
        if found.encoded() != data:
            raise Malformed(Refusal.MALFORMED, "proofs that are not in the one form in which they are written")
        return found
