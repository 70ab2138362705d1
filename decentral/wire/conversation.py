"""What is said when models are used, as values.

A client gives a replica a task and hears what came of it. Where the answer is to be evidence, the task has terms: then
the replica commits to its answer, reveals it once the client shows what all have committed to, and sends it to whom
asks for it. A proof of an answer is asked for in a conversation of its own, by the same question. Before all of that a
client may challenge the node to show which machine it runs on, and seal the session with keys for that machine alone. A
value whose fields have another form cannot be made: Malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from decentral.errors import Malformed, Refusal, Refused
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from decentral.wire.limits import MAX_NUMBER

if TYPE_CHECKING:
    from torch import Tensor

TASK_BYTES = 16
DIGEST_BYTES = NONCE_BYTES = SALT_BYTES = 32
MAX_COMMITMENTS = 1000
MAX_KEYS = 1 << 10


@dataclass(frozen=True, slots=True)
class Terms:
    """What makes a task unlike any other: its id, the client's nonce, and the epoch of the cluster's models."""

    task: bytes
    nonce: bytes
    epoch: int

    def __post_init__(self) -> None:
        _measure("a question", (self.task, TASK_BYTES), (self.nonce, NONCE_BYTES))
        if not 0 <= self.epoch < MAX_NUMBER:
            raise Malformed(Refusal.MALFORMED, "a question of no epoch")


@dataclass(frozen=True, slots=True)
class Prove:
    """`srs`: whether the structured reference string is to come along, since the client does not have it."""

    srs: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs by name, for the part of a model that is called `part` and has this digest of graph and parameters.

    With `terms` the answer is to be evidence; without them it is an output and no more. With `prove` as well, an answer
    to this question is to be proved. It is encoded once, however many replicas it is given to.
    """

    part: str
    digest: bytes
    tensors: Mapping[str, Tensor]
    terms: Terms | None = None
    prove: Prove | None = None
    _encoded: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False, hash=False)


@dataclass(frozen=True, slots=True)
class Commitment:
    """Binds a replica to its answer, of which it tells nothing."""

    digest: bytes

    def __post_init__(self) -> None:
        _measure("a commitment", (self.digest, DIGEST_BYTES))


@dataclass(frozen=True, slots=True)
class Open:
    """What all who were asked the same have committed to: ascending, no two of them equal, 1000 at most."""

    commitments: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.commitments) <= MAX_COMMITMENTS:
            raise Malformed(Refusal.TOO_LARGE, f"{len(self.commitments)} commitments; 1 to {MAX_COMMITMENTS} are shown")
        _measure("a commitment", *((commitment, DIGEST_BYTES) for commitment in self.commitments))
        if any(first >= second for first, second in pairwise(self.commitments)):
            raise Malformed(Refusal.MALFORMED, "commitments out of order")


@dataclass(frozen=True, slots=True)
class Reveal:
    """What opens a commitment, and the signature of the claim that it hid.

    `vouched`: in a sealed session the machine's own signature of the same (`sealed.Speak`), in others no bytes.
    """

    public_key: bytes
    output: bytes
    salt: bytes
    signature: bytes
    vouched: bytes = b""

    def __post_init__(self) -> None:
        _measure(
            "what is revealed",
            (self.public_key, PUBLIC_KEY_BYTES),
            (self.output, DIGEST_BYTES),
            (self.salt, SALT_BYTES),
            (self.signature, SIGNATURE_BYTES),
            (self.vouched, SIGNATURE_BYTES if self.vouched else 0),
        )


@dataclass(frozen=True, slots=True)
class Fetch:
    """The output that was revealed is wanted."""


@dataclass(frozen=True, slots=True)
class Output:
    """What came of a task, by name."""

    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Proof:
    """What proves an answer, in the form in which receipts keep it."""

    evidence: bytes

    def __post_init__(self) -> None:
        if not self.evidence:
            raise Malformed(Refusal.MALFORMED, "a proof of no bytes")


@dataclass(frozen=True, slots=True)
class Challenge:
    """Evidence is wanted that is made for this nonce."""

    nonce: bytes

    def __post_init__(self) -> None:
        _measure("a challenge", (self.nonce, NONCE_BYTES))


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence of the machine that a node runs on."""

    evidence: bytes

    def __post_init__(self) -> None:
        if not self.evidence:
            raise Malformed(Refusal.MALFORMED, "evidence of no bytes")


@dataclass(frozen=True, slots=True)
class Keys:
    """What the machine that was shown derives the session's keys from, and nobody else can."""

    sealed: bytes

    def __post_init__(self) -> None:
        if not 0 < len(self.sealed) <= MAX_KEYS:
            raise Malformed(Refusal.TOO_LARGE, f"keys of {len(self.sealed)} bytes; 1 to {MAX_KEYS} are taken")


@dataclass(frozen=True, slots=True)
class Over:
    """Nobody listens in this conversation any more."""


Said = Task | Commitment | Open | Reveal | Fetch | Output | Proof | Challenge | Shown | Keys | Over | Refused


def _measure(what: str, *fields: tuple[bytes, int]) -> None:
    """Raises Malformed for a field that has another length."""
    for value, length in fields:
        if len(value) != length:
            raise Malformed(Refusal.MALFORMED, f"{what} with a field of {len(value)} bytes instead of {length}")
