"""Files that only the same machine opens again, and on it only who runs the same image, or one of the same signer.

The keys follow from a secret of the machine that no guest ever sees: a guest asks for keys under a policy, and gets
those of what was measured of it (`SealingKeys`). The rules are those of Intel SGX (EGETKEY, Software Developer's Manual
3D): a file of security version v opens at every version from v on, never below, so that an old image with a known fault
does not read what its successor wrote; and a machine that the host can debug has other keys.

    key      HKDF-SHA256(machine's secret, salt = 32 random bytes of the file, info = joined(domain, policy, version,
             debug, measurement and registers | signer))
    file     "dcsealed" || length of the header (4 bytes) || header || AES-256-GCM (16 bytes longer) || SHA-256

The header is one canonical line that says for what, under which policy, version and counter the file was sealed; the
cipher covers all that stands before it. Two tags in it tell apart, only to who has the keys, why a file does not open.
The digest at the end tells damage from lies: whoever changes a file on purpose can make it anew, and gains nothing.

Sealing cannot tell an old file from the newest: who keeps a counter that nobody can set back says `at_least`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from decentral import canonical
from decentral.attestation.report import REGISTER_BYTES
from decentral.errors import DecentralError, Malformed, UserError
from decentral.files import open_plain, write_atomic
from decentral.wire.limits import MAX_NUMBER

KEY_BYTES = SALT_BYTES = SECRET_BYTES = 32
MAX_SEALED = 2**30
"""Bytes of a sealed file."""
_MAGIC = b"dcsealed"
_MAX_HEADER = 2048
_DIGEST_BYTES = 32
_PURPOSE = re.compile(r"[ -~]{1,100}\Z")
_DOMAIN = b"decentral/sealing/v1"


class KeyPolicy(Enum):
    """Who is to open a file again, on the same machine."""

    MEASUREMENT = "measurement"
    """The same image with the same registers, and no other."""
    SIGNER = "signer"
    """Any image of the same signer."""


class Obstacle(Enum):
    """Why a file does not open here, or is not sealed here."""

    OTHER_MACHINE = "another machine"
    OTHER_MEASUREMENT = "another measurement"
    OTHER_SIGNER = "another signer"
    OTHER_POLICY = "another policy"
    OTHER_PURPOSE = "another purpose"
    NEWER_VERSION = "a newer version"
    ROLLED_BACK = "rolled back"
    DAMAGED = "damaged"
    UNSIGNED = "unsigned"
    """Images without a signer have none in common."""


class NotUnsealed(DecentralError):
    """A sealed file that does not open here, and why; nothing of its content was told."""

    def __init__(self, obstacle: Obstacle, detail: str) -> None:
        super().__init__(f"{obstacle.value}: {detail}")
        self.obstacle, self.detail = obstacle, detail


@dataclass(frozen=True, slots=True)
class Guest:
    """What was measured of who asks for keys; fields as in `Report`. Raises ValueError for other lengths."""

    measurement: bytes
    registers: tuple[bytes, ...]
    signer: bytes
    version: int
    debug: bool = False

    def __post_init__(self) -> None:
        if any(len(value) != REGISTER_BYTES for value in (self.measurement, self.signer, *self.registers)):
            raise ValueError("a measurement, a register and a signer have 48 bytes each")
        if not 0 <= self.version < MAX_NUMBER:
            raise ValueError(f"{self.version} is no security version")


class SealingKeys(Protocol):
    """What a guest is given of its machine's secret."""

    @property
    def version(self) -> int:
        """The guest's security version, under which it seals."""

    def key(self, policy: KeyPolicy, version: int, salt: bytes) -> bytes:
        """32 bytes. Raises NotUnsealed for a version above the guest's own, and where nobody has signed it."""

    def machine(self, salt: bytes) -> bytes:
        """32 bytes that are the same for all guests of this machine, and no key."""


@dataclass(frozen=True, slots=True)
class MachineKeys:
    """The keys that a machine with this secret (32 random bytes) gives to this guest."""

    secret: bytes = field(repr=False)
    guest: Guest

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a machine's secret has {SECRET_BYTES} bytes")

    @property
    def version(self) -> int:
        return self.guest.version

    def key(self, policy: KeyPolicy, version: int, salt: bytes) -> bytes:
        guest = self.guest
        _permit(policy, version, guest.version, any(guest.signer))
        whose = (guest.signer,) if policy is KeyPolicy.SIGNER else (guest.measurement, *guest.registers)
        state = version.to_bytes(8, "big") + bytes([guest.debug])
        return _derived(self.secret, salt, _DOMAIN, policy.value.encode(), state, *whose)

    def machine(self, salt: bytes) -> bytes:
        return _derived(self.secret, salt, _DOMAIN, b"machine")


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """Keys that a guest was given of its machine, one for each policy and version: those of files follow from them.

    So it asks once, when it starts, and goes on without its machine's help. `tag`: `machine(SALT)`; `ask` gives
    `key(policy, version, SALT)` as the machine does, and raises what it does.
    """

    version: int
    signed: bool
    tag: bytes = field(repr=False)
    ask: Callable[[KeyPolicy, int], bytes]
    _given: dict[tuple[KeyPolicy, int], bytes] = field(default_factory=dict, repr=False)

    def key(self, policy: KeyPolicy, version: int, salt: bytes) -> bytes:
        _permit(policy, version, self.version, self.signed)
        if (policy, version) not in self._given:
            self._given[policy, version] = self.ask(policy, version)
        return _derived(self._given[policy, version], salt, _DOMAIN, b"given")

    def machine(self, salt: bytes) -> bytes:
        return _derived(self.tag, salt, _DOMAIN, b"given machine")


SALT: Final = bytes(SALT_BYTES)
"""Of what a machine is asked for once."""


def _permit(policy: KeyPolicy, version: int, own: int, signed: bool) -> None:
    if version > own:
        raise NotUnsealed(Obstacle.NEWER_VERSION, f"sealed under version {version}; {own} runs here")
    if policy is KeyPolicy.SIGNER and not signed:
        raise NotUnsealed(Obstacle.UNSIGNED, "nobody has signed this image; seal to its measurement")


@dataclass(frozen=True, slots=True)
class Opened:
    """What was sealed, with which counter, and under which security version.

    Every image of that version, and of later ones, had the keys to write it.
    """

    content: bytes = field(repr=False)
    counter: int
    version: int


def seal(path: Path, content: bytes, keys: SealingKeys, *, policy: KeyPolicy, purpose: str, counter: int) -> None:
    """Writes a sealed file in one step, the owner's alone. Raises UserError if it cannot; for the rest see `sealed`."""
    data = sealed(content, keys, policy=policy, purpose=purpose, counter=counter)
    try:
        write_atomic(path, data, private=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def unseal(path: Path, keys: SealingKeys, *, policy: KeyPolicy, purpose: str, at_least: int) -> Opened:
    """Raises UserError if there is no such file, or it cannot be read; for the rest see `opened`."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_SEALED:
                raise UserError(f"{path}: {size} bytes are no sealed file; {MAX_SEALED} are read")
            data = file.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return opened(data, keys, policy=policy, purpose=purpose, at_least=at_least)


def sealed(content: bytes | bytearray, keys: SealingKeys, *, policy: KeyPolicy, purpose: str, counter: int) -> bytes:
    """The bytes of a sealed file. `purpose`: what it is, so that no file passes for another of the same guest.

    `counter` grows with each file of that purpose. Raises NotUnsealed(UNSIGNED), and ValueError for a purpose that is
    no short ASCII, a counter below zero, or content of more than 2^30 bytes.
    """
    if not _PURPOSE.match(purpose) or not 0 <= counter < MAX_NUMBER:
        raise ValueError("a purpose is 1 to 100 characters of ASCII, and a counter is no less than zero")
    salt, version = secrets.token_bytes(SALT_BYTES), keys.version
    header = canonical.encode(
        {
            "counter": counter,
            "machine": canonical.text(keys.machine(salt)),
            "owner": canonical.text(_owner(keys, policy, salt)),
            "policy": policy.value,
            "purpose": purpose,
            "salt": canonical.text(salt),
            "version": version,
        }
    )
    front = _MAGIC + len(header).to_bytes(4, "big") + header
    # The key is this file's alone, so that one nonce is enough for all of them.
    body = front + _cipher(keys, policy, version, salt).encrypt(bytes(12), content, front)
    if len(body) + _DIGEST_BYTES > MAX_SEALED:
        raise ValueError(f"a sealed file has at most {MAX_SEALED} bytes")
    return body + hashlib.sha256(body).digest()


def opened(data: bytes, keys: SealingKeys, *, policy: KeyPolicy, purpose: str, at_least: int) -> Opened:
    """What `sealed` was given. Raises NotUnsealed, with the first obstacle in the order of the checks here.

    `policy` and `purpose` are what the reader expects: a file sealed to a signer, which any image of that signer can
    write, does not pass for one that this image alone could have written.
    """
    header, front, body = _parted(data)
    if header.purpose != purpose:
        raise NotUnsealed(Obstacle.OTHER_PURPOSE, f"this is {header.purpose!r}, not {purpose!r}")
    if header.policy is not policy:
        raise NotUnsealed(Obstacle.OTHER_POLICY, f"sealed to the {header.policy.value}, not to the {policy.value}")
    if not hmac.compare_digest(header.machine, keys.machine(header.salt)):
        raise NotUnsealed(Obstacle.OTHER_MACHINE, "sealed on a machine with another secret")
    if not hmac.compare_digest(header.owner, _owner(keys, policy, header.salt)):
        if policy is KeyPolicy.SIGNER:
            raise NotUnsealed(
                Obstacle.OTHER_SIGNER, "sealed by an image of another signer, or with debugging on or off"
            )
        problem = "sealed by another image, after other events, or with debugging on or off"
        raise NotUnsealed(Obstacle.OTHER_MEASUREMENT, problem)
    try:
        content = _cipher(keys, policy, header.version, header.salt).decrypt(bytes(12), body, front)
    except InvalidTag:
        raise NotUnsealed(Obstacle.DAMAGED, "is not what was sealed") from None
    if header.counter < at_least:
        raise NotUnsealed(Obstacle.ROLLED_BACK, f"an old file: its counter is {header.counter}, not {at_least} or more")
    return Opened(content, header.counter, header.version)


@dataclass(frozen=True, slots=True)
class _Header:
    counter: int
    machine: bytes
    owner: bytes
    policy: KeyPolicy
    purpose: str
    salt: bytes
    version: int


def whole(data: bytes) -> bool:
    """Whether these bytes end as a sealed file does, by the digest that anybody can compute: damage, and no lies."""
    return len(data) <= MAX_SEALED and hashlib.sha256(data[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]


def _parted(data: bytes) -> tuple[_Header, bytes, bytes]:
    """The header, all that stands before the cipher text, and the cipher text. Raises NotUnsealed(DAMAGED)."""
    start = len(_MAGIC) + 4
    body = data[:-_DIGEST_BYTES]
    if not whole(data):
        raise NotUnsealed(Obstacle.DAMAGED, "its bytes are not those that were written")
    length = int.from_bytes(body[len(_MAGIC) : start], "big")
    if not body.startswith(_MAGIC) or length > _MAX_HEADER or start + length > len(body):
        raise NotUnsealed(Obstacle.DAMAGED, "is no sealed file")
    try:
        header = _header(canonical.decode(body[start : start + length]))
    except (Malformed, ValueError):
        raise NotUnsealed(Obstacle.DAMAGED, "its header is none") from None
    return header, body[: start + length], body[start + length :]


def _header(content: object) -> _Header:
    """Raises Malformed, or ValueError."""
    match content:
        case {
            "counter": int(counter), "machine": str(machine), "owner": str(owner), "policy": str(policy),
            "purpose": str(purpose), "salt": str(salt), "version": int(version), **rest,
        } if not rest:  # fmt: skip
            pass
        case _:
            raise ValueError("a header has these fields and no other")
    numbers = (counter, version)
    if bool in map(type, numbers) or not all(0 <= number < MAX_NUMBER for number in numbers):
        raise ValueError("a counter and a version are numbers")
    if not _PURPOSE.match(purpose):
        raise ValueError("a purpose is short and printable")
    tags = [canonical.data(text, KEY_BYTES) for text in (machine, owner, salt)]
    return _Header(counter, tags[0], tags[1], KeyPolicy(policy), purpose, tags[2], version)


def _owner(keys: SealingKeys, policy: KeyPolicy, salt: bytes) -> bytes:
    """Tells who else would get the same keys, whatever its version."""
    return _derived(keys.key(policy, 0, salt), salt, _DOMAIN, b"owner")


def _cipher(keys: SealingKeys, policy: KeyPolicy, version: int, salt: bytes) -> AESGCM:
    return AESGCM(_derived(keys.key(policy, version, salt), salt, _DOMAIN, b"file"))


def _derived(secret: bytes, salt: bytes, *info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, canonical.joined(*info)).derive(secret)
