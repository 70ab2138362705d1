"""How much a peer takes from another one. Everything here is checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

CHUNK_BYTES = 1 << 20
MAX_HEADER = 1 << 20
MAX_LETTER = 1 << 20
"""Of one encoded message that is not a model."""
MAX_FRAME = MAX_HEADER + CHUNK_BYTES + 64
"""Of one message of a model: header, data and digest with their framing."""
MAX_SEALED = MAX_FRAME + 64
"""Of one message, as the cipher of a session leaves it."""

MAX_SHOWN = 8 << 20
"""Of what a machine shows, before anybody knows whether it counts."""

MAX_ADDRESS = 255
MAX_HASH = 128
MAX_TAG = 64
MAX_NUMBER = 1 << 63
MAX_AGE = (1 << 16) - 1
"""Rounds since a peer was seen at work, so that two bytes say it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one peer; sizes in bytes, times in seconds.

    `schema` is the only tensor schema that is taken (`elements.schema_hash`), None takes any; `packed` are those of the
    other forms in which the same model travels. `pending` messages of one sender and kind are held for an inbox that
    does not read, and `calls` of one sender are served at once; what exceeds them is refused with BUSY. So is a
    conversation beyond `conversations` in one session, and a task for which there is no room in the client's share
    (`room.Room`) of the `held` bytes that all unfinished ones together may take, or that keeps its room without coming:
    some of it has to come every `silence`, and all of it within `arrival`.
    """

    model_bytes: int = 1 << 32
    tensors: int = 8192
    name_length: int = 256
    rank: int = 8
    records: int = 4096
    schema: str | None = None
    packed: frozenset[str] = frozenset()
    pending: int = 8
    calls: int = 64
    conversations: int = 64
    held: int = 1 << 30
    silence: float = 20.0
    arrival: float = 120.0
