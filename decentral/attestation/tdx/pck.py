"""What a processor's own certificate (PCK) says of it: Intel's extension 1.2.840.113741.1.13.1, written in DER.

Intel, "SGX PCK certificate and certificate revocation list profile". Reading it is dcap-qvl's work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509

OID = "1.2.840.113741.1.13.1"
COMPONENTS = 16
INTEGER, BOOLEAN, OCTETS, IDENTIFIER, ENUMERATED, SEQUENCE = 0x02, 0x01, 0x04, 0x06, 0x0A, 0x30
SCALABLE = 1
"""Kind of SGX: memory encrypted without a tree of digests, as on servers that run trust domains."""


@dataclass(frozen=True, slots=True)
class Pck:
    """`ppid`, `instance`: 16 bytes that name the processor and the board. `fmspc`: 6, its family. `pce_id`: 2.

    `components`: 16 security versions of firmware and microcode. `pce_version`: of the enclave that certifies keys.
    """

    ppid: bytes
    instance: bytes
    fmspc: bytes
    components: bytes
    pce_version: int
    pce_id: bytes = bytes(2)

    def extension(self) -> x509.UnrecognizedExtension:
        versions = [
            *(_entry(f"2.{place + 1}", _number(version)) for place, version in enumerate(self.components)),
            _entry("2.17", _number(self.pce_version)),
            _entry("2.18", _value(OCTETS, self.components)),
        ]
        flags = (_entry(f"7.{place}", _value(BOOLEAN, b"\xff")) for place in (1, 2, 3))
        entries = (
            _entry("1", _value(OCTETS, self.ppid)),
            _entry("2", _sequence(versions)),
            _entry("3", _value(OCTETS, self.pce_id)),
            _entry("4", _value(OCTETS, self.fmspc)),
            _entry("5", _value(ENUMERATED, bytes([SCALABLE]))),
            _entry("6", _value(OCTETS, self.instance)),
            _entry("7", _sequence(flags)),
        )
        return x509.UnrecognizedExtension(x509.ObjectIdentifier(OID), _sequence(entries))


def _value(kind: int, content: bytes) -> bytes:
    count = len(content)
    size = count.to_bytes((count.bit_length() + 7) // 8, "big")
    length = bytes([count]) if count < 0x80 else bytes([0x80 | len(size)]) + size
    return bytes([kind]) + length + content


def _number(value: int) -> bytes:
    return _value(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _sequence(entries: Iterable[bytes]) -> bytes:
    return _value(SEQUENCE, b"".join(entries))


def _entry(place: str, value: bytes) -> bytes:
    first, second, *others = (int(part) for part in f"{OID}.{place}".split("."))
    content = b"".join(_base128(part) for part in (40 * first + second, *others))
    return _sequence((_value(IDENTIFIER, content), value))


def _base128(value: int) -> bytes:
    """Seven bits a byte, the highest bit set in all but the last."""
    found = [value & 0x7F]
    while value := value >> 7:
        found.append(0x80 | value & 0x7F)
    return bytes(reversed(found))
