"""What a client of a cluster pins: `trust.toml`. Everything else that it believes follows from this file.

    authority = "-----BEGIN CERTIFICATE----- ..."

    [[peers]]
    name = "peer-0"      id = "..."      address = "127.0.0.1:7000"      part = "expert-0"      digest = "9f2c..."

It is copied to a client by a way that the client trusts; no key that comes with an answer ever takes its place.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.wire.messages import PeerId

FILE = "trust.toml"
HEADER = "# What a client of this cluster trusts: copy it by a way that you trust too."
CERTIFICATE = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Anchor:
    """One peer: where it is, and, where it serves, which part of a model with which digest (hexadecimal)."""

    name: str
    id: PeerId
    address: str
    part: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The authority's certificate (PEM) and the peers."""

    authority: bytes
    peers: tuple[Anchor, ...]

    def save(self, file: Path) -> None:
        lines = [HEADER, f'authority = """\n{self.authority.decode()}"""', ""]
        for peer in self.peers:
            fields = {
                "name": peer.name,
                "id": peer.id,
                "address": peer.address,
                "part": peer.part,
                "digest": peer.digest,
            }
            lines += ["[[peers]]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items() if value), ""]
        write_atomic(file, "\n".join(lines).encode())

    @classmethod
    def load(cls, file: Path) -> Anchors:
        """Raises UserError that names the file and the key."""
        try:
            content = tomllib.loads(file.read_text())
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except ValueError as error:  # also what is no UTF-8
            raise UserError(f"{file}: is no trust file ({error})") from error
        authority, peers = content.pop("authority", None), content.pop("peers", [])
        if not isinstance(authority, str) or CERTIFICATE not in authority:
            raise UserError(f"{file}: authority: must be a certificate in PEM")
        if content or not isinstance(peers, list) or not all(isinstance(peer, dict) for peer in peers):
            raise UserError(
                f"{file}: {next(iter(content), 'peers')}: not a key of a trust file, or not a list of tables"
            )
        found = tuple(_anchor(file, place, peer) for place, peer in enumerate(peers))
        if len({peer.name for peer in found}) < len(found) or len({peer.id for peer in found}) < len(found):
            raise UserError(f"{file}: peers: two have one name or one id")
        return cls(authority.encode(), found)


FORMS = {
    "name": r"[A-Za-z0-9._-]{1,64}",
    "id": r"[a-z2-7]{52}",
    "address": r"\S{1,255}:[0-9]{1,5}",
    "part": r"[A-Za-z0-9._/-]{0,64}",
    "digest": r"([0-9a-f]{64})?",
}


def _anchor(file: Path, place: int, values: Mapping[str, Any]) -> Anchor:
    unknown = values.keys() - FORMS.keys()
    if unknown:
        raise UserError(f"{file}: peers[{place}].{min(unknown)}: not a key of a trust file")
    fields = {key: values.get(key, "") for key in FORMS}
    for key, value in fields.items():
        if not isinstance(value, str) or not re.fullmatch(FORMS[key], value):
            raise UserError(f"{file}: peers[{place}].{key}: {value!r} is not of the form {FORMS[key]}")
    return Anchor(**{**fields, "id": PeerId(fields["id"])})
