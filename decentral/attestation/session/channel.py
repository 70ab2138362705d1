"""Encryption from a client to the inside of an attested machine, whoever ends TLS in front of it.

The client opens a session with a fresh secret, sealed to the machine's X25519 key (HPKE, RFC 9180, base mode, single
shot: X25519, HKDF-SHA256, AES-256-GCM); what the evidence was bound to goes in as `info`. From the secret follows a key
for each direction. Each message is AES-256-GCM with the direction's counter as nonce (NIST SP 800-38D, 8.2.1) and task,
part, direction and counter as associated data, none of which is sent: both ends know them. So a message that is
repeated, left out, moved, sent back, shortened, or shown for another task or part does not open, and the session ends.

    hello         enc (32) || sealed secret (32 + 16)
    transcript    SHA-256(joined("decentral/channel/v1", context, hello))
    key           HKDF-SHA256(secret, salt = 32 random bytes of who sends, info = joined(direction, transcript))
    message       ciphertext || tag (16); the first one in each direction is preceded by its salt

Whoever repeats a client's hello and messages to a node makes it answer under a key of another salt, never twice under
one key and nonce. A node's key that is stolen opens what was recorded before (base mode has no forward secrecy beyond
TLS's own), so a node has a new one for every start. Lengths of messages can be seen. Nothing marks the last message of
a session: what is said has to tell where it ends.

Large tensors go in pieces of about 1 MiB, as the wire has them: sealing 64 MiB at once takes ten times as long a byte,
because memory of that size comes from the kernel page by page.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from typing import Never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from decentral.canonical import joined
from decentral.errors import DecentralError, Malformed, Refusal

SECRET_BYTES = SALT_BYTES = 32
TAG_BYTES = 16
HELLO_BYTES = 32 + SECRET_BYTES + TAG_BYTES
MAX_MESSAGE = 2**30
"""Bytes in one message."""
MAX_MESSAGES = 2**32
MAX_CARRIED = 2**38
"""Bytes in one direction: an attacker tells so much from noise with a probability of 2^-61 at most
(draft-irtf-cfrg-aead-limits, section 5.1: about blocks^2 / 2^129)."""
_DOMAIN = b"decentral/channel/v1"
_CLIENT, _NODE = b"client", b"node"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

Buffer = bytes | bytearray | memoryview


class ChannelEnded(DecentralError):
    """A session that carries no more: a message did not open, or its keys have been used enough. Open another one."""


class _Direction:
    """A key for each salt, and how much it has carried: every number once."""

    def __init__(self, name: bytes, secret: bytes, transcript: bytes) -> None:
        self._name, self._secret, self._transcript = name, secret, transcript
        self._cipher: AESGCM | None = None
        self._count = self._carried = 0

    def cipher(self, salt: bytes) -> AESGCM:
        key = HKDF(hashes.SHA256(), SECRET_BYTES, salt, joined(self._name, self._transcript)).derive(self._secret)
        return AESGCM(key)

    def seal(self, data: Buffer, task: bytes, part: str) -> bytes:
        nonce, associated = self._next(len(data), task, part)
        if self._cipher is not None:
            return self._cipher.encrypt(nonce, data, associated)
        salt = secrets.token_bytes(SALT_BYTES)
        self._cipher = self.cipher(salt)
        return salt + self._cipher.encrypt(nonce, data, associated)

    def open(self, sealed: memoryview, task: bytes, part: str) -> bytes:
        """Raises InvalidTag."""
        if self._cipher is None:
            self._cipher, sealed = self.cipher(bytes(sealed[:SALT_BYTES])), sealed[SALT_BYTES:]
        nonce, associated = self._next(len(sealed) - TAG_BYTES, task, part)
        return self._cipher.decrypt(nonce, sealed, associated)

    def _next(self, size: int, task: bytes, part: str) -> tuple[bytes, bytes]:
        """Nonce and associated data. Raises ChannelEnded before a number could come twice."""
        if self._count >= MAX_MESSAGES or self._carried + size > MAX_CARRIED:
            raise ChannelEnded("this session has carried as much as its keys may")
        count = self._count.to_bytes(8, "big")
        self._count += 1
        self._carried += size
        return bytes(4) + count, joined(task, part.encode(), self._name, count)


class _Channel:
    """What both ends do. A channel belongs to one process, whose threads may share it."""

    def __init__(self, sends: bytes, receives: bytes, secret: bytes, context: bytes, hello: bytes) -> None:
        transcript = hashlib.sha256(joined(_DOMAIN, context, hello)).digest()
        self._sends = _Direction(sends, secret, transcript)
        self._receives = _Direction(receives, secret, transcript)
        self._lock = threading.Lock()  # two threads never get the same number
        self._process = os.getpid()
        self._ended = False

    def seal(self, message: Buffer, *, task: bytes = b"", part: str = "") -> bytes:
        """The next message to the other end: 16 bytes longer, the first one 48. It lies in one piece of memory.

        `task` and `part`: what it is about, where it does not say so itself, as the wire's frames do.
        Raises Malformed(TOO_LARGE) for more than 2^30 bytes, and ChannelEnded.
        """
        content = _octets(message)
        if len(content) > MAX_MESSAGE:
            raise Malformed(Refusal.TOO_LARGE, f"{len(content)} bytes; {MAX_MESSAGE} are sealed in one message")
        with self._lock:
            self._check()
            return self._sends.seal(content, task, part)

    def open(self, message: Buffer, *, task: bytes = b"", part: str = "") -> bytes:
        """What the other end said next, which has to be about this task and part.

        Raises Malformed(SIGNATURE) for anything else, which ends the session; ChannelEnded if it has ended before.
        """
        content = _octets(message)
        with self._lock:
            self._check()
            try:
                if len(content) > SALT_BYTES + MAX_MESSAGE + TAG_BYTES:
                    raise InvalidTag
                return self._receives.open(content, task, part)
            except InvalidTag:
                self._ended = True
                problem = "is not this session's next message, unchanged and about this part and task"
                raise Malformed(Refusal.SIGNATURE, problem) from None

    def _check(self) -> None:
        if self._ended:
            raise ChannelEnded("this session was shown a message that is not its next one, and has ended")
        if os.getpid() != self._process:
            raise ChannelEnded("this session belongs to the process that opened it: a fork would repeat its numbers")

    def __reduce__(self) -> Never:
        raise TypeError("a channel is not copied: both copies would use the same numbers")


class ClientChannel(_Channel):
    """The end of who asks. `hello` (80 bytes) is the first thing that the node has to see."""

    def __init__(self, node_key: bytes, context: bytes) -> None:
        """`node_key`: X25519, raw, 32 bytes, vouched for by evidence; `context`: what that evidence was bound to.

        Raises Malformed for a key of another length, or one with which every secret would be the same.
        """
        secret = secrets.token_bytes(SECRET_BYTES)
        try:
            self.hello = _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(node_key), joined(_DOMAIN, context))
        except ValueError:
            raise Malformed(Refusal.MALFORMED, "is no public key to encrypt to") from None
        super().__init__(_CLIENT, _NODE, secret, context, self.hello)


class NodeChannel(_Channel):
    """The end of who answers."""

    def __init__(self, key: X25519PrivateKey, hello: bytes, context: bytes) -> None:
        """Raises Malformed(SIGNATURE) unless `hello` was sealed to this key, after evidence bound to this `context`."""
        try:
            secret = _SUITE.decrypt(hello, key, joined(_DOMAIN, context)) if len(hello) == HELLO_BYTES else b""
        except (InvalidTag, ValueError):
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise Malformed(Refusal.SIGNATURE, "is not sealed to this machine's key and to the evidence that it gave")
        super().__init__(_NODE, _CLIENT, secret, context, hello)


def _octets(data: Buffer) -> memoryview:
    """The same memory, byte by byte. Raises TypeError where it is not in one piece."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")
