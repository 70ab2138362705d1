"""One encoding for each value, so that equal contents are equal bytes: JSON with sorted keys and no spaces, in ASCII.

What is read is written again and has to be the same bytes: a file that says the same in other words is refused, and so
no bit of one can be changed without changing what it says. Bytes are written in Base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from decentral.errors import Malformed, Refusal


def encode(value: Any) -> bytes:
    """Of strings, whole and finite numbers, truths, null, lists, and mappings with strings as keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def decode(data: bytes) -> Any:
    """Raises Malformed unless `data` is exactly what `encode` writes."""
    try:
        value = json.loads(data)
        same = encode(value) == data
    except (ValueError, RecursionError) as error:
        raise Malformed(Refusal.MALFORMED, f"is no JSON that could be written ({error})") from None
    if not same:
        raise Malformed(Refusal.MALFORMED, "is not in the one form in which it is written")
    return value


def text(data: bytes) -> str:
    """Bytes as a string."""
    return base64.b64encode(data).decode()


def data(text: object, length: int | None = None) -> bytes:
    """The bytes, so many if `length` is given. Raises Malformed."""
    try:
        found = base64.b64decode(text if isinstance(text, str) else "!", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(Refusal.MALFORMED, f"{str(text)[:20]!r} are no bytes in Base64") from None
    if base64.b64encode(found).decode() != text or (length is not None and len(found) != length):
        raise Malformed(Refusal.MALFORMED, f"{str(text)[:20]!r} are not {length} bytes in Base64")
    return found


def joined(*parts: bytes) -> bytes:
    """Each part after its length in 8 bytes: no two lists of parts are the same bytes. To be hashed, or signed."""
    pieces: list[bytes] = []
    for part in parts:
        pieces += (len(part).to_bytes(8, "big"), part)
    return b"".join(pieces)
