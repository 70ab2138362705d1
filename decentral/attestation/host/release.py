"""Who answers for an installation: an image and its code, signed under a security version, as SGX's SIGSTRUCT does.

The quoting process takes the signer from there for what is sealed to him. A signature covers nothing that somebody has
changed since, so what is changed has no signer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from decentral import canonical
from decentral.attestation.report import REGISTER_BYTES
from decentral.errors import Malformed, UserError
from decentral.files import open_plain, write_atomic
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, verify
from decentral.wire.limits import MAX_NUMBER

FILE = "release"
"""In the folder of a cluster's evidence."""
FORMAT = "decentral release v1"
PURPOSE = "release"
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Release:
    """`image`, `code`: digests of 48 bytes; `version`: grows with each release that mends a fault."""

    image: bytes
    code: bytes
    version: int
    public_key: bytes
    signature: bytes

    @classmethod
    def signed(cls, identity: Identity, image: bytes, code: bytes, version: int) -> Self:
        """Raises ValueError for what is no version."""
        if not 0 <= version < MAX_NUMBER:
            raise ValueError(f"{version} is no security version")
        return cls(image, code, version, identity.public_key, identity.sign(PURPOSE, _content(image, code, version)))

    @property
    def signer(self) -> bytes:
        """48 bytes: SHA-384 of the key."""
        return hashlib.sha384(self.public_key).digest()

    def covers(self, image: bytes, code: bytes) -> bool:
        return (self.image, self.code) == (image, code)

    def save(self, file: Path) -> None:
        """Raises OSError."""
        fields = {name: canonical.text(getattr(self, name)) for name in ("image", "code", "public_key", "signature")}
        write_atomic(file, canonical.encode({"format": FORMAT, "version": self.version, **fields}))

    @classmethod
    def load(cls, file: Path) -> Self | None:
        """None where there is none. Raises UserError for one that is not signed as it says."""
        try:
            with open_plain(file) as opened:
                data = opened.read(MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        try:
            found = canonical.decode(data)
            if set(found) != {"format", "version", "image", "code", "public_key", "signature"}:
                raise ValueError("it has other fields")
            if found["format"] != FORMAT or type(found["version"]) is not int or not 0 <= found["version"] < MAX_NUMBER:
                raise ValueError("it has another format")
            image, code = (canonical.data(found[name], REGISTER_BYTES) for name in ("image", "code"))
            key = canonical.data(found["public_key"], PUBLIC_KEY_BYTES)
            signature = canonical.data(found["signature"], SIGNATURE_BYTES)
            verify(key, PURPOSE, _content(image, code, found["version"]), signature)
        except (Malformed, ValueError, TypeError) as error:
            raise UserError(f"{file}: is no signed release ({error}); sign anew, or remove it") from error
        return cls(image, code, found["version"], key, signature)


def _content(image: bytes, code: bytes, version: int) -> bytes:
    return image + code + version.to_bytes(8, "big")
