"""What a client of a cluster pins: `trust.toml`. Everything else that it believes follows from this file.

    authority = "-----BEGIN CERTIFICATE----- ..."
    epoch = 1

    [[parts]]
    name = "stage-0"     digest = "51d0..."      at = "peers"     inputs = ["images"]     tolerance = 1e-4     gain = 3

    [[peers]]
    name = "peer-0"      id = "..."      address = "127.0.0.1:7000"      part = "expert-0"      digest = "9f2c..."

    [[revoked]]
    id = "..."      since = 1790000000      reason = "its disk was stolen"

It is copied to a client by a way that the client trusts; no key that comes with an answer ever takes its place.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.trust.machines import Machines
from decentral.wire.addresses import split_address
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
class Part:
    """One part of the model, in the order in which an answer passes through them.

    `digest` (hexadecimal) is that of the one right part, whoever computes it; `at`: whether peers compute it or the
    client does. Honest answers are at most `tolerance` apart (`decentral.core.agreement.distance`), and the model's
    outputs at most `gain` times as far apart as the outputs of this part that they come from: 1 of the last part.
    """

    name: str
    digest: str
    at: Literal["peers", "client"]
    tolerance: float
    gain: float
    inputs: tuple[str, ...] = ()
    """The names of the tensors that it takes."""
    circuit: str = ""
    """Identity (hexadecimal) of the circuit that proves its answers (`decentral.zk.circuit`); empty: it has none."""

    def model(self, proved: bool) -> str:
        """What a question names: the circuit where peers prove their answers, else the digest."""
        return self.circuit if proved and self.at == "peers" else self.digest


@dataclass(frozen=True, slots=True)
class Revoked:
    """An identity of which nothing counts that it has said from a time on (Unix seconds)."""

    id: PeerId
    since: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The authority's certificate (PEM), the peers, and the parts of the model if peers serve one in turn.

    While one authority takes over from another, `authority` is the certificates of both.

    `epoch` counts how often what is served has changed: evidence of another epoch is stale.
    """

    authority: bytes
    peers: tuple[Anchor, ...]
    epoch: int = 1
    parts: tuple[Part, ...] = ()
    router: str = ""
    """Digest (hexadecimal) of the network by which clients choose among experts; empty: there is none, or any."""
    machines: Machines | None = None
    """Which machines count; None: nobody asks."""
    revoked: tuple[Revoked, ...] = ()
    """Who counts no more; peers among them stay in the list, for what they have said before."""

    def replicas(self, part: str) -> tuple[Anchor, ...]:
        """The peers that serve a part, in the order of the file, also those that have been revoked."""
        return tuple(peer for peer in self.peers if peer.part == part)

    def asked(self, part: str) -> tuple[Anchor, ...]:
        """Those of them whom one asks now."""
        gone = {each.id for each in self.revoked}
        return tuple(peer for peer in self.replicas(part) if peer.id not in gone)

    def revoked_at(self, peer: PeerId, time: int) -> Revoked | None:
        """Why what this identity has said at a time (Unix seconds) does not count; None if it does."""
        return next((each for each in self.revoked if each.id == peer and time >= each.since), None)

    def save(self, file: Path) -> None:
        lines = [HEADER, f'authority = """\n{self.authority.decode()}"""', f"epoch = {self.epoch}"]
        lines += [f"router = {json.dumps(self.router)}"] if self.router else []
        lines.append("")
        for part in self.parts:
            said = {key: value for key, value in asdict(part).items() if key != "circuit" or value}
            lines += ["[[parts]]", *(f"{key} = {json.dumps(value)}" for key, value in said.items()), ""]
        for peer in self.peers:
            fields = (f"{key} = {json.dumps(value)}" for key, value in asdict(peer).items() if value)
            lines += ["[[peers]]", *fields, ""]
        for gone in self.revoked:
            lines += [
                "[[revoked]]",
                *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in asdict(gone).items()),
                "",
            ]
        lines += self.machines.lines() if self.machines is not None else []
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
        authority, epoch = content.pop("authority", None), content.pop("epoch", 1)
        router = content.pop("router", "")
        if not isinstance(authority, str) or CERTIFICATE not in authority:
            raise UserError(f"{file}: authority: must be a certificate in PEM")
        if type(epoch) is not int or not 0 < epoch < 2**63:
            raise UserError(f"{file}: epoch: must be a whole number from 1 on, not {epoch!r}")
        if not isinstance(router, str) or not re.fullmatch(FORMS["digest"], router):
            raise UserError(f"{file}: router: must be a digest, not {router!r}")
        peers, parts = _tables(file, content, "peers", _anchor), _tables(file, content, "parts", _part)
        revoked = _tables(file, content, "revoked", _revoked)
        machines = Machines.of(content.pop("machines"), partial(_refuse, file)) if "machines" in content else None
        if content:
            raise UserError(f"{file}: {min(content)}: not a key of a trust file")
        if len({peer.name for peer in peers}) < len(peers) or len({peer.id for peer in peers}) < len(peers):
            raise UserError(f"{file}: peers: two have one name or one id")
        if len({part.name for part in parts}) < len(parts):
            raise UserError(f"{file}: parts: two have one name")
        known = {part.name: part for part in parts}
        for place, peer in enumerate(peers) if parts else ():
            part = known.get(peer.part)
            if part is None or part.at != "peers" or part.digest != peer.digest:
                problem = f"{peer.name} does not serve, with that digest, a part that peers compute"
                raise UserError(f"{file}: peers[{place}].part: {problem}")
        return cls(authority.encode(), peers, epoch, parts, router, machines, revoked)


FORMS = {
    "name": r"[A-Za-z0-9._-]{1,64}",
    "id": r"[a-z2-7]{52}",
    "address": r"\S{1,255}:[0-9]{1,5}",
    "part": r"[A-Za-z0-9._/-]{0,64}",
    "digest": r"([0-9a-f]{64})?",
}
PART_FORMS = {
    "name": r"[A-Za-z0-9._/-]{1,64}",
    "digest": r"[0-9a-f]{64}",
    "at": r"peers|client",
    "circuit": r"([0-9a-f]{64})?",
}
REVOKED_FORMS = {"id": FORMS["id"], "reason": r"[^\x00-\x1f\x7f]{0,200}"}
MEASURED = {"tolerance": 1.0, "gain": sys.float_info.max}
"""The numbers of a part, and up to where they make sense."""

T = TypeVar("T")


def _refuse(file: Path, problem: str, key: str) -> UserError:
    return UserError(f"{file}: {'.'.join(['machines', *([key] if key else [])])}: {problem}")


def _tables(
    file: Path, content: dict[str, Any], key: str, read: Callable[[str, Mapping[str, Any]], T]
) -> tuple[T, ...]:
    tables = content.pop(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{file}: {key}: must be a list of tables")
    return tuple(read(f"{file}: {key}[{place}]", table) for place, table in enumerate(tables))


def _anchor(where: str, values: Mapping[str, Any]) -> Anchor:
    fields = _texts(where, values, FORMS)
    try:
        split_address(fields["address"])
    except UserError as error:
        raise UserError(f"{where}.address: {error}") from error
    return Anchor(fields.pop("name"), PeerId(fields.pop("id")), **fields)


def _revoked(where: str, values: Mapping[str, Any]) -> Revoked:
    texts = _texts(where, {key: value for key, value in values.items() if key != "since"}, REVOKED_FORMS)
    since = values.get("since")
    if type(since) is not int or not 0 <= since < 2**63:
        raise UserError(f"{where}.since: must be a time in Unix seconds, not {since!r}")
    return Revoked(PeerId(texts["id"]), since, texts["reason"])


def _part(where: str, values: Mapping[str, Any]) -> Part:
    inputs = values.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(name, str) and 0 < len(name) <= 256 for name in inputs):
        raise UserError(f"{where}.inputs: must be a list of names, not {inputs!r}")
    texts = {key: value for key, value in values.items() if key not in (*MEASURED, "inputs")}
    fields = _texts(where, texts, PART_FORMS)
    measured = {}
    for key, highest in MEASURED.items():
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
            raise UserError(f"{where}.{key}: must be a number from 0 to {highest:g}, not {value!r}")
        measured[key] = float(value)
    at: Literal["peers", "client"] = "peers" if fields["at"] == "peers" else "client"
    return Part(fields["name"], fields["digest"], at, inputs=tuple(inputs), circuit=fields["circuit"], **measured)


def _texts(where: str, values: Mapping[str, Any], forms: Mapping[str, str]) -> dict[str, str]:
    """All the keys of `forms`, empty where `values` lack them. Raises UserError."""
    unknown = values.keys() - forms.keys()
    if unknown:
        raise UserError(f"{where}.{min(unknown)}: not a key of a trust file")
    fields = {key: values.get(key, "") for key in forms}
    for key, value in fields.items():
        if not isinstance(value, str) or not re.fullmatch(forms[key], value):
            raise UserError(f"{where}.{key}: {value!r} is not of the form {forms[key]}")
    return fields
