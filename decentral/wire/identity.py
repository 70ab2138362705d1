"""Who a peer is: a long-lived Ed25519 key, and what it signs.

A peer's id is the digest of its public key, so an id cannot be claimed without the key. Every signature covers the name
of its purpose first (domain separation): one made for a membership record never verifies as a TLS key's binding.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from decentral.errors import Malformed, Refusal, UserError
from decentral.files import Vault, write_atomic
from decentral.wire.messages import MembershipRecord, MembershipStatus, PeerId

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
IDENTITY = "identity.key"
"""The file of the private key, in the folder of whose it is."""
PEER_ID = re.compile(r"[a-z2-7]{52}\Z")


@lru_cache(maxsize=4096)
def peer_id(public_key: bytes) -> PeerId:
    """Lower-case base32 of the SHA-256 of a raw Ed25519 public key, without padding: 52 characters."""
    return PeerId(base64.b32encode(hashlib.sha256(public_key).digest()).decode().rstrip("=").lower())


def _statement(purpose: str, content: bytes) -> bytes:
    return b"decentral/" + purpose.encode() + b"/v1\0" + content


class Identity:
    """An Ed25519 key pair. `id` is what other peers call its holder."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.id = peer_id(self.public_key)

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity that belongs to a seed. For the simulator, whose runs repeat: the seed is no secret."""
        return cls(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(_statement("seed", seed)).digest()))

    @classmethod
    def load(cls, path: Path, vault: Vault | None = None) -> Identity:
        """Raises UserError if the file is missing, damaged, or readable by other users, or if no vault opens it."""
        return cls.parse(read_private(path) if vault is None else vault.read(path), path)

    @classmethod
    def parse(cls, pem: bytes, path: Path) -> Identity:
        """The identity whose private key (PEM) was found in a file. Raises UserError naming it if that is damaged."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise UserError(f"{path}: not an Ed25519 private key in PEM; restore it, or start as a new peer")
        return cls(key)

    @classmethod
    def open(cls, path: Path) -> Identity:
        """The identity kept in a file, made and saved there on first use."""
        if path.exists():
            return cls.load(path)
        identity = cls.generate()
        identity.save(path)
        return identity

    def save(self, path: Path, vault: Vault | None = None) -> None:
        """Writes the private key atomically, readable by its owner alone."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, pem, vault)

    def sign(self, purpose: str, content: bytes) -> bytes:
        """64 bytes over the purpose and the content."""
        return self._key.sign(_statement(purpose, content))

    def record(self, status: MembershipStatus, counter: int, address: str, first_round: int) -> MembershipRecord:
        """This peer's signed word on its own membership."""
        content = _record_bytes(self.public_key, status, counter, address, first_round)
        signature = self.sign("membership", content)
        return MembershipRecord(self.id, self.public_key, status, counter, address, first_round, signature)


def verify(public_key: bytes, purpose: str, content: bytes, signature: bytes) -> PeerId:
    """The id of the signer. Raises Malformed(SIGNATURE), also for a key under which anybody can sign."""
    if _of_small_order(public_key):
        raise Malformed(Refusal.SIGNATURE, f"a key without a secret, whose signatures for {purpose} anybody can make")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _statement(purpose, content))
    except (InvalidSignature, ValueError) as error:
        raise Malformed(Refusal.SIGNATURE, f"not this key's signature for {purpose}") from error
    return peer_id(public_key)


_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P)


def _of_small_order(public_key: bytes) -> bool:
    """Whether a key is one of the curve's eight points whose multiple by eight is neutral, in any of their encodings.

    A signature that needs no secret (R neutral, S = 0) holds under such a key for one content in eight at least, and
    OpenSSL takes it. On the curve -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, 5.1) these are the points with y = 0 or
    y = +-1, and those whose double has y = 0: there x^2 = -y^2.
    """
    y = int.from_bytes(public_key, "little") % 2**255
    return y * (y * y - 1) * (_D * y**4 + 2 * y * y - 1) % _P == 0


@lru_cache(maxsize=65536)
def verify_record(record: MembershipRecord) -> None:
    """Raises Malformed(SIGNATURE) unless the record was signed by the peer that it is about.

    Cached: gossip brings the same records again and again.
    """
    content = _record_bytes(record.public_key, record.status, record.counter, record.address, record.first_round)
    if verify(record.public_key, "membership", content, record.signature) != record.peer:
        raise Malformed(Refusal.SIGNATURE, "a membership record about another peer than its signer")


def _record_bytes(public_key: bytes, status: MembershipStatus, counter: int, address: str, first_round: int) -> bytes:
    """Fields of fixed width first and the one of variable width last, so that distinct records never share bytes."""
    numbers = b"".join(number.to_bytes(8, "big") for number in (status.value, counter, first_round))
    return public_key + numbers + address.encode()


def read_private(path: Path) -> bytes:
    """The content of a private file. Raises UserError if it is missing or if other users may read it."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        raise UserError(f"{path}: other users can read this key; `chmod 600` it, or better replace it")
    return content


def write_private(path: Path, data: bytes, vault: Vault | None = None) -> None:
    """Writes a private file in one step, as it is or into a vault. Raises OSError."""
    if vault is None:
        write_atomic(path, data, private=True)
    else:
        vault.write(path, data)
