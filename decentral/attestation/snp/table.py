"""The certificates that a host hands to its guest along with a report: a table by identifiers, as the kernel passes it.

Source: AMD 56421, Guest-Hypervisor Communication Block, extended guest requests: entries of an identifier (16 bytes),
offset and length (4 each, least significant byte first), one of zeros as the end, then the documents themselves.
"""

from __future__ import annotations

import struct
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.collateral import MOST_BYTES, Collateral
from decentral.attestation.snp.documents import reading

CHAIN = {
    "VCEK": UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    "ASK": UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
    "ARK": UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
}
REVOKED = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")
_ENTRY = struct.Struct("<16sII")
_END = bytes(_ENTRY.size)
_PEM = b"-----BEGIN"


def from_table(data: bytes, revoked: bytes | None = None) -> Collateral:
    """The collateral in a table; with this list of revoked certificates (DER) where the host hands out none.

    Certificates may be in DER or in PEM; what else the host adds is passed over. Nothing is believed by this: the
    verifier checks all of it. Raises NotGenuine: MALFORMED if it is no such table, COLLATERAL if something is missing.
    """
    if len(data) > MOST_BYTES:
        raise NotGenuine(Flaw.MALFORMED, f"a table of {len(data)} bytes, more than {MOST_BYTES}")
    found: dict[UUID, bytes] = {}
    for place in range(0, len(data) + 1, _ENTRY.size):
        entry = data[place : place + _ENTRY.size]
        if len(entry) < _ENTRY.size:
            raise NotGenuine(Flaw.MALFORMED, "a table of certificates without an end")
        if entry == _END:
            break
        name, offset, length = _ENTRY.unpack(entry)
        if offset + length > len(data) or UUID(bytes=name) in found:
            raise NotGenuine(
                Flaw.MALFORMED, "a table of certificates that names what it does not hold, or names it twice"
            )
        found[UUID(bytes=name)] = data[offset : offset + length]
    missing = [name for name, identifier in CHAIN.items() if not found.get(identifier)]
    if missing:
        raise NotGenuine(Flaw.COLLATERAL, f"the host has handed out no {', no '.join(missing)}")
    revoked = revoked or found.get(REVOKED)
    if not revoked:
        raise NotGenuine(Flaw.COLLATERAL, "the host has handed out no list of revoked certificates")
    with reading("a table of certificates"):
        chain = tuple(_certificate(found[identifier]) for identifier in CHAIN.values())
        return Collateral(chain, _list(revoked))


def to_table(collateral: Collateral) -> bytes:
    """As a host would hand it out."""
    documents = dict(zip(CHAIN.values(), collateral.chain, strict=True)) | {REVOKED: collateral.revoked}
    offset, entries = _ENTRY.size * (len(documents) + 1), b""
    for identifier, document in documents.items():
        entries += _ENTRY.pack(identifier.bytes, offset, len(document))
        offset += len(document)
    return entries + _END + b"".join(documents.values())


def _certificate(document: bytes) -> bytes:
    if not document.startswith(_PEM):
        return document
    return x509.load_pem_x509_certificate(document).public_bytes(serialization.Encoding.DER)


def _list(document: bytes) -> bytes:
    return (
        x509.load_pem_x509_crl(document).public_bytes(serialization.Encoding.DER)
        if document.startswith(_PEM)
        else document
    )
