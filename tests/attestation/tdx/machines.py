"""One simulated maker, one of its processors, and a quote of it at a certain time."""

from __future__ import annotations

from decentral.attestation.tdx.authority import TdxAuthority
from decentral.attestation.tdx.platform import TdxPlatform
from decentral.attestation.tdx.quote import TdxQuote

NOW = 1_760_000_000
DAY = 86_400
REPORT_DATA, IMAGE = bytes(range(64)), bytes(range(100, 148))
REGISTERS = tuple(bytes([number]) * 48 for number in range(4))

AUTHORITY = TdxAuthority(b"a" * 32)
OTHERS = TdxAuthority(b"o" * 32)
PLATFORM = TdxPlatform.certified(AUTHORITY, b"p" * 32)
BYTES = PLATFORM.quote(REPORT_DATA, IMAGE, REGISTERS)
QUOTE = TdxQuote.parse(BYTES)
COLLATERAL = AUTHORITY.collateral(NOW)


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    """With one bit changed."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)
