"""What Intel publishes of its processors, without which no quote can be judged: one canonical file.

    TCB information      which security versions of one family of processors are how good, signed
    QE identity          which quoting enclaves are Intel's, signed
    two issuer chains    of those signatures: a certificate for signing and the root, in PEM
    PCK issuer chain     of processors' certificates: the platform's CA and the root, in PEM
    two lists (DER)      of certificates that the root and the platform's CA have revoked

The documents' signatures cover their very characters, so they are kept as they came.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, fields
from typing import Any

import dcap_qvl

from decentral import canonical
from decentral.attestation.report import Flaw, NotGenuine
from decentral.errors import Malformed

LARGEST = 1 << 20
"""Bytes of a file that are looked at; real ones have about twenty thousand."""
FORMAT = "decentral tdx collateral v1"
TIME = "%Y-%m-%dT%H:%M:%SZ"
_BYTES = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True, slots=True)
class Collateral:
    """The parts by the names that dcap-qvl gives them. Signatures are 64 bytes, r and s."""

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    def encode(self) -> bytes:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        texts = {name: canonical.text(part) if isinstance(part, bytes) else part for name, part in parts.items()}
        return canonical.encode({"format": FORMAT, **texts})

    @classmethod
    def parse(cls, data: bytes) -> Collateral:
        """Raises NotGenuine (malformed or not canonical) unless `data` is exactly what `encode` gives."""
        if len(data) > LARGEST:
            raise NotGenuine(Flaw.MALFORMED, f"collateral of {len(data)} bytes")
        try:
            found = canonical.decode(data)
            names = {field.name for field in fields(cls)}
            if not isinstance(found, dict) or found.pop("format", "") != FORMAT or found.keys() != names:
                raise NotGenuine(Flaw.MALFORMED, f"collateral that is no {FORMAT}")
            if not all(isinstance(part, str) for part in found.values()):
                raise NotGenuine(Flaw.MALFORMED, "collateral with a part that is no text")
            parts: dict[str, Any] = {
                name: canonical.data(found[name]) if name in _BYTES else found[name] for name in names
            }
            return cls(**parts)
        except Malformed as error:
            raise NotGenuine(Flaw.NOT_CANONICAL, f"collateral that {error}") from None

    @classmethod
    def imported(cls, text: str) -> Collateral:
        """Of the JSON that dcap-qvl's tools and Intel's cache write (bytes in hexadecimal). Raises NotGenuine."""
        try:
            found = dcap_qvl.QuoteCollateralV3.from_json(text)
        except ValueError as error:
            raise NotGenuine(Flaw.MALFORMED, f"no collateral ({error})") from None
        return cls(**{field.name: getattr(found, field.name) for field in fields(cls)})

    def given(self) -> Any:
        """For dcap-qvl: its QuoteCollateralV3."""
        return dcap_qvl.QuoteCollateralV3(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True, slots=True)
class Document:
    """One of the two signed documents: its kind, its version, and from when to when it is valid (seconds)."""

    kind: str
    version: int
    issued: int
    expires: int
    content: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> Document:
        """Raises NotGenuine."""
        try:
            found = json.loads(text)
            kind, version = found["id"], found["version"]
            issued, expires = seconds(found["issueDate"]), seconds(found["nextUpdate"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NotGenuine(Flaw.COLLATERAL, f"a document of the collateral that says too little ({error})") from None
        return cls(kind, version, issued, expires, found)


def seconds(text: str) -> int:
    """Of a time in Intel's documents, since 1970. Raises ValueError."""
    return int(datetime.datetime.strptime(text, TIME).replace(tzinfo=datetime.UTC).timestamp())


def time_text(when: int) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.UTC).strftime(TIME)
