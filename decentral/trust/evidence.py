"""What a replica says of its answer, in a form that it cannot take back.

It commits first, to an answer that nobody has seen; when all have committed, it reveals. The commitment covers who made
it and for which question, so that a copy of somebody else's opens to nothing. What is revealed is signed by the
replica's long-lived identity: the signature over wrong bytes is what proves a lie to anybody, later. It covers all the
commitments that the replica was shown too, so that whoever keeps the answers cannot leave one out without a trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from decentral.canonical import joined
from decentral.errors import Malformed, Refusal
from decentral.wire.conversation import Reveal
from decentral.wire.identity import PEER_ID, Identity, peer_id, verify
from decentral.wire.messages import PeerId

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.wire.sealed import Speak

DIGEST_BYTES = NONCE_BYTES = SALT_BYTES = 32
TASK_BYTES = 16
MAX_PART = 64
MAX_EPOCH = 2**63
ANSWER = "answer"
"""Purpose of signatures."""
_DOMAIN = b"decentral commitment v1"
_TOGETHER = b"decentral commitments v1"


@dataclass(frozen=True, slots=True)
class Question:
    """What a replica was asked: a task's step. Raises Malformed for fields of another form.

    `model` and `inputs` are digests of the part's graph and parameters and of the tensors that it was given, `nonce` is
    the client's and new for every task; `epoch` counts how often the cluster's models have been replaced.
    """

    task: bytes
    part: str
    model: bytes
    inputs: bytes
    nonce: bytes
    epoch: int

    def __post_init__(self) -> None:
        lengths = (
            (self.task, TASK_BYTES),
            (self.model, DIGEST_BYTES),
            (self.inputs, DIGEST_BYTES),
            (self.nonce, NONCE_BYTES),
        )
        if any(len(value) != length for value, length in lengths):
            raise Malformed(Refusal.MALFORMED, "a question whose task, digests or nonce have another length")
        if not 0 < len(self.part.encode()) <= MAX_PART or not 0 <= self.epoch < MAX_EPOCH:
            raise Malformed(Refusal.MALFORMED, "a question to no part, or of no epoch")

    def encoded(self) -> bytes:
        """Distinct questions never share bytes."""
        return joined(self.task, self.part.encode(), self.model, self.inputs, self.nonce, self.epoch.to_bytes(8, "big"))


@dataclass(frozen=True, slots=True)
class Claim:
    """That these output tensors, by their digest, are the answer to a question."""

    question: Question
    output: bytes

    def encoded(self, node: PeerId) -> bytes:
        """As that node claims it."""
        return joined(self.question.encoded(), node.encode(), self.output)


def commitment(claim: Claim, node: PeerId, salt: bytes) -> bytes:
    """SHA-256 over the domain, question, node, output's digest and salt: nothing can be read from it."""
    return hashlib.sha256(joined(_DOMAIN, claim.encoded(node), salt)).digest()


def together(commitments: Iterable[bytes]) -> bytes:
    """One digest for the commitments of all replicas that were asked the same, in whatever order they came.

    A copied one counts once: it opens for its maker alone.
    """
    return hashlib.sha256(joined(_TOGETHER, *sorted(set(commitments)))).digest()


@dataclass(frozen=True, slots=True)
class SignedClaim:
    """A claim that its maker cannot deny, made when it had seen these commitments (`together`)."""

    public_key: bytes
    claim: Claim
    shown: bytes
    signature: bytes

    @property
    def content(self) -> bytes:
        """What is signed."""
        return _signed(self.claim, peer_id(self.public_key), self.shown)

    def signer(self) -> PeerId:
        """Raises Malformed(SIGNATURE)."""
        return verify(self.public_key, ANSWER, self.content, self.signature)


@dataclass(frozen=True, eq=False)
class Reply:
    """What has come from one replica until the deadlines: a commitment, then what opens it, then the tensors.

    The tensors must not change from then on.
    """

    commitment: bytes | None = None
    reveal: Reveal | None = None
    tensors: Mapping[str, Tensor] | None = None
    _verified: set[SignedClaim] = field(default_factory=set, init=False, repr=False)

    def signed(self, question: Question, shown: bytes) -> SignedClaim | None:
        """What was revealed, as the answer to this question; its signature is verified once.

        `shown`: the commitments that it has seen (`together`). Raises Malformed(SIGNATURE).
        """
        if self.reveal is None:
            return None
        signed = SignedClaim(self.reveal.public_key, Claim(question, self.reveal.output), shown, self.reveal.signature)
        if signed not in self._verified:
            signed.signer()
            self._verified.add(signed)
        return signed

    @cached_property
    def sent(self) -> bytes | None:
        """The digest of the tensors, found once: hashing them costs more than all else that is asked about them."""
        return None if self.tensors is None else tensors_digest(self.tensors)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A replica's answer between its commitment, which is sent, and the moment when all have committed."""

    identity: Identity
    claim: Claim
    salt: bytes
    commitment: bytes

    def open(self, commitments: Collection[bytes], speak: Speak | None = None) -> Reveal:
        """What it sends then; `speak`: where the session is sealed to its machine, this one's own signature of it.

        Raises Malformed where its own commitment is not among those that it is shown.
        """
        if self.commitment not in commitments:
            raise Malformed(Refusal.MALFORMED, "my commitment is not among those that I am shown")
        content = _signed(self.claim, self.identity.id, together(commitments))
        signature, vouched = self.identity.sign(ANSWER, content), b"" if speak is None else speak(content)
        return Reveal(self.identity.public_key, self.claim.output, self.salt, signature, vouched)


def commit(identity: Identity, claim: Claim, salt: bytes) -> Sealed:
    """`salt`: 32 random bytes, never used twice."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
    return Sealed(identity, claim, salt, commitment(claim, identity.id, salt))


def tensors_digest(tensors: Mapping[str, Tensor]) -> bytes:
    """Of named tensors, with their types, shapes and exact bits: what is computed with, and what comes of it."""
    from decentral.training.digest import model_digest

    return bytes.fromhex(model_digest("tensors that are passed on", dict(tensors)))


# ---- what verifiers find ------------------------------------------------------------------------------------------


class Kind(Enum):
    """What a finding is about; a policy asks for some of them."""

    MODEL = "model"
    """The part has the digest that the verifier has pinned."""
    LINK = "link"
    """The part was given what the part before it answered, or what the client asked."""
    FRESH = "fresh"
    """The question is of the epoch that the verifier knows."""
    CONSENSUS = "consensus"
    """A quorum of replicas agrees; measured: how many."""
    ZK = "zk"
    ATTESTATION = "attestation"
    LEAKAGE = "leakage"
    """Measured: what the tensors that leave the part before tell of the inputs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one verifier found about one part. It measures; whether that is enough is the policy's to say."""

    kind: Kind
    part: str
    passed: bool
    detail: str
    measured: float | None = None
    simulated: bool = False


class FaultKind(Enum):
    """What a replica did wrong, from what anybody can check to what only the client has seen."""

    LIED = "lied"
    """Signed an answer that is not what the part computes: proven by the signature and by computing it again."""
    EQUIVOCATED = "equivocated"
    """Signed two answers that cannot both be right: proven by the two signatures."""
    DISAGREED = "disagreed"
    """Signed an answer that the quorum does not share: not proven until it is computed again."""
    BROKE_COMMITMENT = "broke its commitment"
    """Revealed, or sent, something else than it had committed to: a copied commitment ends here."""
    INVALID = "invalid"
    """Sent what its key has not signed for this question: forged, replayed, of another task or epoch."""
    UNRESPONSIVE = "unresponsive"
    """Said nothing within the deadline. It is not called a liar."""
    UNATTESTED = "unattested"
    """Did not show that its machine counts. It was asked nothing."""
    BUSY = "busy"
    """Had too much to do until the deadline, and said so. It is held against nobody."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`proof`: signed claims that convict it before anybody, where there are."""

    node: PeerId
    part: str
    kind: FaultKind
    detail: str
    proof: tuple[SignedClaim, ...] = field(default=())

    def __post_init__(self) -> None:
        if not PEER_ID.fullmatch(self.node):
            raise ValueError(f"{self.node!r} is no peer")
        if self.kind in (FaultKind.LIED, FaultKind.EQUIVOCATED) and not self.proof:
            raise ValueError(f"nobody is said to have {self.kind.value} without its signature")


def _signed(claim: Claim, node: PeerId, shown: bytes) -> bytes:
    return joined(claim.encoded(node), shown)
