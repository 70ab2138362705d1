"""Whose proof it is, and for which task: without it, a proof of the same input could be shown again by anybody."""

from __future__ import annotations

from dataclasses import dataclass

from decentral.errors import Malformed, Refusal
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, verify
from decentral.wire.messages import PeerId
from decentral.zk.proof import Proof

PURPOSE = "zk proof"
DIGEST = NONCE = 32


@dataclass(frozen=True, slots=True)
class Binding:
    """A prover's signed word that this proof of a stage was made for this task."""

    public_key: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if (len(self.public_key), len(self.signature)) != (PUBLIC_KEY_BYTES, SIGNATURE_BYTES):
            raise Malformed(Refusal.SIGNATURE, "a binding whose key or signature has another length")

    def signer(self, nonce: bytes, model: bytes, stage: int, proof: Proof) -> PeerId:
        """Raises Malformed(SIGNATURE) if it was made for anything else."""
        return verify(self.public_key, PURPOSE, _content(nonce, model, stage, proof), self.signature)

    def encoded(self) -> bytes:
        return self.public_key + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Binding:
        """Raises Malformed."""
        return cls(data[:PUBLIC_KEY_BYTES], data[PUBLIC_KEY_BYTES:])


def bind(identity: Identity, nonce: bytes, model: bytes, stage: int, proof: Proof) -> Binding:
    """`nonce`: the task's, 32 bytes, new for each; `model`: the identity of the whole chain."""
    return Binding(identity.public_key, identity.sign(PURPOSE, _content(nonce, model, stage, proof)))


def _content(nonce: bytes, model: bytes, stage: int, proof: Proof) -> bytes:
    if (len(nonce), len(model)) != (NONCE, DIGEST) or not 0 <= stage < 2**32:
        raise Malformed(Refusal.MALFORMED, "a task's nonce and a model's identity have 32 bytes each")
    return nonce + model + stage.to_bytes(4, "big") + proof.digest
