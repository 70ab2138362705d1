"""What AMD's certificate of a processor (VCEK) says of it: which chip, which product, and which firmware.

Source: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification: a key is derived
from a chip's secret and from the versions of its firmware, so that older firmware cannot sign as newer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.report import CHIP_BYTES, TcbVersion

_AMD = "1.3.6.1.4.1.3704.1"
STRUCTURE = x509.ObjectIdentifier(f"{_AMD}.1")
PRODUCT = x509.ObjectIdentifier(f"{_AMD}.2")
BOOT_LOADER, TEE, SNP, MICROCODE = (x509.ObjectIdentifier(f"{_AMD}.3.{place}") for place in (1, 2, 3, 8))
RESERVED = tuple(x509.ObjectIdentifier(f"{_AMD}.3.{place}") for place in (4, 5, 6, 7))
HARDWARE = x509.ObjectIdentifier(f"{_AMD}.4")

PRODUCTS = ("Milan", "Genoa", "Siena")
"""Those whose versions have the layout of `TcbVersion`; a stepping may follow ("Milan-B0")."""


@dataclass(frozen=True, slots=True)
class Endorsement:
    """`chip`: 64 bytes, one processor's alone."""

    product: str
    tcb: TcbVersion
    chip: bytes

    @classmethod
    def read(cls, certificate: x509.Certificate) -> Endorsement:
        """Raises NotGenuine(CERTIFICATE) if it lacks a part or has it in another form, COLLATERAL if it is of a product
        whose versions cannot be read here.
        """
        values = {
            extension.oid: extension.value.value
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        product = _string(values, PRODUCT)
        if product.partition("-")[0] not in PRODUCTS:
            raise NotGenuine(Flaw.COLLATERAL, f"a certificate of a {product[:20]!r}, whose versions are not known here")
        for oid in (STRUCTURE, *(oid for oid in RESERVED if oid in values)):
            if _number(values, oid):
                raise NotGenuine(Flaw.CERTIFICATE, f"a VCEK whose {oid.dotted_string} is not zero")
        chip = _present(values, HARDWARE)
        if len(chip) != CHIP_BYTES:
            raise NotGenuine(Flaw.CERTIFICATE, f"a VCEK of a chip whose name has {len(chip)} bytes, not {CHIP_BYTES}")
        return cls(product, TcbVersion(*(_number(values, oid) for oid in (BOOT_LOADER, TEE, SNP, MICROCODE))), chip)

    def extensions(self) -> dict[x509.ObjectIdentifier, bytes]:
        """What `read` reads, in AMD's order."""
        name = self.product.encode("ascii")
        boot_loader, tee, snp, microcode = map(_integer, self.tcb.parts)
        return {
            STRUCTURE: _integer(0),
            PRODUCT: bytes([0x16, len(name)]) + name,
            BOOT_LOADER: boot_loader,
            TEE: tee,
            **dict.fromkeys(RESERVED, _integer(0)),
            SNP: snp,
            MICROCODE: microcode,
            HARDWARE: self.chip,
        }


def _integer(value: int) -> bytes:
    """DER of 0 to 255."""
    content = value.to_bytes(1 if value < 0x80 else 2, "big")
    return bytes([0x02, len(content)]) + content


_NUMBERS = {_integer(value): value for value in range(256)}


def _present(values: Mapping[x509.ObjectIdentifier, bytes], oid: x509.ObjectIdentifier) -> bytes:
    if oid not in values:
        raise NotGenuine(Flaw.CERTIFICATE, f"no VCEK: {oid.dotted_string} is missing")
    return values[oid]


def _number(values: Mapping[x509.ObjectIdentifier, bytes], oid: x509.ObjectIdentifier) -> int:
    found = _NUMBERS.get(_present(values, oid))
    if found is None:
        raise NotGenuine(Flaw.CERTIFICATE, f"a VCEK whose {oid.dotted_string} is no number up to 255")
    return found


def _string(values: Mapping[x509.ObjectIdentifier, bytes], oid: x509.ObjectIdentifier) -> str:
    found = _present(values, oid)
    if found[:2] != bytes([0x16, len(found) - 2 & 0x7F]) or not found.isascii():
        raise NotGenuine(Flaw.CERTIFICATE, f"a VCEK whose {oid.dotted_string} is no text")
    return found[2:].decode("ascii")
