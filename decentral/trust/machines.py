"""Which machines a client trusts to compute, as its trust file has them pinned: roots, measurements, and how fresh.

    [machines]
    statuses = ["UpToDate"]     # what the maker says of the processor and its firmware, of those that have a status
    debug = false               # whether the host may look into the machine
    days = 30                   # how old the maker's word may be
    minutes = 60                # how long a session may rest on one challenge
    revoked = []                # serial numbers of processors' certificates that do not count any more

    [[machines.roots]]
    technology = "tdx"    simulated = true    certificate = "MIIB..."     # Base64 of DER; without: the maker's own

    [[machines.references]]
    technology = "tdx"    measurement = "51d0..."    registers = ["", "", ""]    versions = []    signer = ""
    events = { code = "9f2c...", recipe = "...", model = "..." }

A machine counts if it is like one of the references in all that this one says, and each has to say which image is
meant. A root that is no maker's own is a simulation's. Evidence is verified elsewhere (`attestation.evidence`); this
judges the facts, and in doubt it says no.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from decentral import canonical
from decentral.attestation.attester import RUNTIME
from decentral.attestation.registers import EventLog
from decentral.attestation.report import Flaw, Report, Root, Technology
from decentral.errors import Malformed

HEX = re.compile(r"([0-9a-f]{96})?")
EVENT = re.compile(r"[a-z][a-z0-9-]{0,63}")
SERIAL = re.compile(r"[0-9a-f]{1,128}")
DAY, MINUTE = 86400, 60
MOST = 1000
"""Of each list."""

Refuse = Callable[[str, str], Exception]
"""Makes an error of a problem and the key where it is."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a machine does not count."""

    flaw: Flaw
    detail: str

    def __str__(self) -> str:
        return f"{self.flaw.value}: {self.detail}"


@dataclass(frozen=True)
class Reference:
    """A machine that counts. Digests of 48 bytes in hexadecimal; empty ones, and missing registers, may be any.

    `registers`: RTMR 0 to 2 of TDX; `events`: what has been extended since, by name, and nothing else; `versions`: the
    lowest, each at its place.
    """

    technology: Technology
    measurement: str = ""
    registers: tuple[str, ...] = ()
    events: Mapping[str, str] = field(default_factory=dict)
    signer: str = ""
    versions: tuple[int, ...] = ()

    def complaints(self, report: Report, log: EventLog) -> list[Complaint]:
        """In what a machine is not like this one."""
        found = []
        if self.measurement not in ("", report.measurement.hex()):
            found.append(Complaint(Flaw.MEASUREMENT, f"the image is {report.measurement.hex()[:16]}..., not allowed"))
        for place, wanted in enumerate(self.registers):
            if wanted and (place >= len(report.registers) or report.registers[place].hex() != wanted):
                found.append(Complaint(Flaw.MEASUREMENT, f"register {place} is not the one that is allowed"))
        names = [event.name for event in log.events]
        for name, wanted in self.events.items():
            event = log.named(name, RUNTIME)
            if event is None:
                how = "has changed while it ran" if name in names else "was not measured"
                found.append(Complaint(Flaw.MEASUREMENT, f"its {name} {how}"))
            elif event.digest.hex() != wanted:
                found.append(Complaint(Flaw.MEASUREMENT, f"its {name} is not the one that is allowed"))
        besides = sorted(set(names) - set(self.events))
        found += [Complaint(Flaw.MEASUREMENT, f"it runs something else besides: {name}") for name in besides]
        if self.signer not in ("", report.signer.hex()):
            found.append(Complaint(Flaw.SIGNER, f"the image is signed by {report.signer.hex()[:16]}..."))
        versions = [*report.versions, *[-1] * len(self.versions)]
        if any(has < least for has, least in zip(versions, self.versions, strict=False)):
            found.append(Complaint(Flaw.VERSION, f"versions {list(report.versions)}; at least {list(self.versions)}"))
        return found

    def plain(self) -> dict[str, Any]:
        return {
            "technology": self.technology.value,
            "measurement": self.measurement,
            "registers": list(self.registers),
            "events": dict(self.events),
            "signer": self.signer,
            "versions": list(self.versions),
        }


@dataclass(frozen=True)
class Machines:
    """See above."""

    roots: tuple[Root, ...]
    references: tuple[Reference, ...]
    statuses: tuple[str, ...] = ("UpToDate",)
    debug: bool = False
    days: int = 30
    minutes: int = 60
    revoked: tuple[str, ...] = ()

    @property
    def seconds(self) -> int:
        """For how long a session may rest on one challenge."""
        return self.minutes * MINUTE

    def complaints(self, report: Report, log: EventLog, now: int) -> list[Complaint]:
        """Why a machine with these facts does not count at that time (seconds since 1970); none if it does.

        That it is simulated is no complaint: a policy allows that or does not.
        """
        found = []
        if report.serial.lstrip("0") in {serial.lstrip("0") for serial in self.revoked}:
            found.append(Complaint(Flaw.REVOKED, f"{report.serial[:16]}... is on the list of revoked processors"))
        if report.debug and not self.debug:
            found.append(Complaint(Flaw.DEBUG, "the machine is in debug mode: its host can look into it"))
        if report.migratable:
            found.append(Complaint(Flaw.DEBUG, "an agent of the host may take the guest to another machine"))
        if report.privilege:
            found.append(Complaint(Flaw.MEASUREMENT, f"asked for at level {report.privilege} of the guest, not at 0"))
        if report.status and report.status not in self.statuses:
            about = f" ({', '.join(report.advisories)})" if report.advisories else ""
            found.append(Complaint(Flaw.STATUS, f"its maker says {report.status}{about}"))
        if now - report.issued > self.days * DAY:
            age = (now - report.issued) // DAY
            found.append(Complaint(Flaw.STALE, f"what its maker says is {age} days old; {self.days} at most"))
        alike = [each for each in self.references if each.technology is report.technology]
        if not alike:
            found.append(Complaint(Flaw.MEASUREMENT, f"no machine with {report.technology.value} is allowed"))
            return found
        return found + min((each.complaints(report, log) for each in alike), key=len)

    # ---- in a trust file ------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, values: object, refuse: Refuse) -> Machines:
        """From what TOML has. Raises what `refuse` makes."""
        table = _table(values, "", {"roots", "references", *_SCALARS}, refuse)
        given = {key: read(table[key], key, refuse) for key, read in _SCALARS.items() if key in table}
        roots = tuple(_root(each, key, refuse) for key, each in _list(table, "roots", refuse))
        references = tuple(_reference(each, key, refuse) for key, each in _list(table, "references", refuse))
        if not roots:
            raise refuse("there has to be one, or no machine counts", "roots")
        return cls(roots, references, **given)

    def lines(self) -> Iterator[str]:
        """As TOML."""
        yield "[machines]"
        for key in _SCALARS:
            value = getattr(self, key)
            yield f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}"
        for root in self.roots:
            yield from ("", "[[machines.roots]]", f'technology = "{root.technology.value}"')
            yield f"simulated = {json.dumps(root.simulated)}"
            if root.certificate is not None:
                yield f'certificate = "{canonical.text(root.certificate)}"'
        for reference in self.references:
            yield from ("", "[[machines.references]]")
            for key, value in reference.plain().items():
                if key != "events":
                    yield f"{key} = {json.dumps(value)}"
            yield "events = { " + ", ".join(f'{name} = "{digest}"' for name, digest in reference.events.items()) + " }"
        yield ""


def _table(values: object, where: str, keys: set[str] | None, refuse: Refuse) -> dict[str, Any]:
    """`keys`: None, any."""
    if not isinstance(values, dict):
        raise refuse(f"must be a table, not {values!r}", where)
    for key in values:
        if keys is not None and key not in keys:
            raise refuse("not a key of a trust file", f"{where}.{key}" if where else str(key))
    return values


def _list(table: Mapping[str, Any], key: str, refuse: Refuse) -> list[tuple[str, object]]:
    values = table.get(key, [])
    if not isinstance(values, list) or len(values) > MOST:
        raise refuse(f"must be a list of at most {MOST}", key)
    return [(f"{key}[{place}]", each) for place, each in enumerate(values)]


def _root(values: object, where: str, refuse: Refuse) -> Root:
    table = _table(values, where, {"technology", "certificate", "simulated"}, refuse)
    simulated = _truth(table.get("simulated", False), f"{where}.simulated", refuse)
    try:
        certificate = canonical.data(table["certificate"]) if "certificate" in table else None
        root = Root(_technology(table, where, refuse), certificate, simulated)
    except (Malformed, ValueError) as error:
        raise refuse(str(error), f"{where}.certificate") from None
    if not root.makers and not simulated:
        raise refuse("is no maker's own: it has to be simulated = true", f"{where}.certificate")
    return root


def _reference(values: object, where: str, refuse: Refuse) -> Reference:
    keys = {"technology", "measurement", "registers", "events", "signer", "versions"}
    table = _table(values, where, keys, refuse)
    events = _table(table.get("events", {}), f"{where}.events", None, refuse)
    for name in events:
        if not EVENT.fullmatch(name):
            raise refuse(f"{name!r} is no name of an event", f"{where}.events")
    registers = table.get("registers", [])
    if not isinstance(registers, list) or len(registers) > RUNTIME:
        raise refuse(f"must be a list of at most {RUNTIME}", f"{where}.registers")
    versions = table.get("versions", [])
    whole = isinstance(versions, list) and all(type(each) is int and 0 <= each < 2**16 for each in versions)
    if not whole or len(versions) > 16:
        raise refuse("must be a list of at most 16 whole numbers", f"{where}.versions")
    found = Reference(
        _technology(table, where, refuse),
        _digest(table.get("measurement", ""), f"{where}.measurement", refuse),
        tuple(_digest(each, f"{where}.registers[{place}]", refuse) for place, each in enumerate(registers)),
        {name: _digest(each, f"{where}.events.{name}", refuse) for name, each in events.items()},
        _digest(table.get("signer", ""), f"{where}.signer", refuse),
        tuple(versions),
    )
    if found.signer and found.technology is Technology.TDX:
        raise refuse("tdx tells of none: what it calls an owner is the host's word", f"{where}.signer")
    if not found.measurement and not found.signer.strip("0"):  # zeros are nobody
        raise refuse("without it every image counts, and measures of itself what it likes", f"{where}.measurement")
    return found


def _technology(table: Mapping[str, Any], where: str, refuse: Refuse) -> Technology:
    try:
        return Technology(table.get("technology"))
    except ValueError:
        known = ", ".join(each.value for each in Technology)
        raise refuse(f"must be one of {known}, not {table.get('technology')!r}", f"{where}.technology") from None


def _digest(value: object, where: str, refuse: Refuse) -> str:
    if not isinstance(value, str) or not HEX.fullmatch(value):
        raise refuse(f"must be a digest of 48 bytes in hexadecimal, not {value!r}", where)
    return value


def _truth(value: object, where: str, refuse: Refuse) -> bool:
    if not isinstance(value, bool):
        raise refuse(f"must be true or false, not {value!r}", where)
    return value


def _count(value: object, where: str, refuse: Refuse) -> int:
    if type(value) is not int or not 0 < value <= 10_000:
        raise refuse(f"must be a whole number from 1 to 10000, not {value!r}", where)
    return value


def _statuses(value: object, where: str, refuse: Refuse) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and 0 < len(each) < 64 for each in value):
        raise refuse(f"must be a list of what makers say, such as UpToDate, not {value!r}", where)
    return tuple(value)


def _serials(value: object, where: str, refuse: Refuse) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and SERIAL.fullmatch(each) for each in value):
        raise refuse(f"must be a list of serial numbers in hexadecimal, not {value!r}", where)
    return tuple(value)


_SCALARS: dict[str, Callable[[object, str, Refuse], Any]] = {
    "statuses": _statuses,
    "debug": _truth,
    "days": _count,
    "minutes": _count,
    "revoked": _serials,
}
