"""Sessions that only one machine can read: what is said before anything else, and the ciphers that both ends use then.

    client -> Challenge(nonce)    node -> Shown(evidence)    client -> Keys(sealed)    from here on ciphertext both ways

The evidence is made for the nonce, and covers the key to which the keys are sealed; what it proves is not for this room
to say (`decentral.attestation`). A session is sealed before any conversation begins in it, or it is not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from decentral.errors import Malformed, Refusal
from decentral.wire.conversation import Challenge, Keys, Shown

if TYPE_CHECKING:
    from decentral.wire.stream import Stream
    from decentral.wire.v1 import serving_pb2

SESSION = 0
"""The number under which both sides talk about the session itself."""


class Cipher(Protocol):
    """One end of a sealed session: its messages in their order, and those of the other end in theirs."""

    def seal(self, message: bytes) -> bytes: ...

    def open(self, message: bytes) -> bytes:
        """Raises Malformed for anything but the other end's next message."""


Speak = Callable[[bytes], bytes]
"""Signs with a key that the evidence covers and that never leaves the machine: 64 bytes."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Evidence of a machine, what it makes of keys that are sealed to it (may raise Malformed), and its voice."""

    evidence: bytes
    agree: Callable[[bytes], Cipher]
    speak: Speak


Attest = Callable[[bytes, bytes], Awaitable[Offer]]
"""What a node shows who challenges it with a nonce over a connection in which it has shown this certificate (PEM)."""
Show = Callable[[bytes], Awaitable[Offer]]
"""The same of the certificate that it shows now."""


class Greeting:
    """The server's side of what comes before all conversations."""

    def __init__(self, show: Show | None, stream: Stream) -> None:
        self._show, self._stream = show, stream
        self._offer: Offer | None = None
        self._agreed = False

    @property
    def speak(self) -> Speak | None:
        """The voice of the machine, once the session is sealed to it."""
        return self._offer.speak if self._offer is not None and self._agreed else None

    async def take(self, frame: serving_pb2.SessionFrame, begun: bool) -> None:
        """`begun`: whether there have been conversations. Raises Malformed; once in a session each may be said."""
        if begun or self._agreed:
            raise Malformed(Refusal.MALFORMED, "a session is sealed before anything else is said, and once")
        said = self._stream.hear(frame)
        if isinstance(said, Challenge) and self._offer is None:
            if self._show is None:
                raise Malformed(Refusal.UNSPECIFIED, "this node shows no evidence of its machine")
            self._offer = await self._show(said.nonce)
            await self._stream.say(SESSION, Shown(self._offer.evidence))
        elif isinstance(said, Keys) and self._offer is not None:
            self._stream.cipher = self._offer.agree(said.sealed)
            self._agreed = True
        else:
            raise Malformed(Refusal.MALFORMED, "a session is challenged, then given its keys")
