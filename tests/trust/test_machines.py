"""Which machines count: one that is like a reference in all that it says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from decentral.attestation.attester import RUNTIME
from decentral.attestation.registers import Event, EventLog
from decentral.attestation.report import Flaw, Report, Root, Technology
from decentral.errors import UserError
from decentral.trust.anchors import Anchors
from decentral.trust.machines import DAY, Machines, Reference

NOW = 1_790_000_000
ROOT = Root(Technology.TDX, b"der", True)
LOG = EventLog((Event.of(RUNTIME, "code", b"files"), Event.of(RUNTIME, "recipe", b"yaml")))
REPORT = Report(
    technology=Technology.TDX,
    root=ROOT,
    report_data=bytes(64),
    measurement=b"i" * 48,
    registers=LOG.replay(),
    configuration=bytes(48),
    signer=b"s" * 48,
    versions=(3, 2, 1),
    debug=False,
    status="UpToDate",
    advisories=(),
    issued=NOW - DAY,
    expires=NOW + DAY,
    serial="a1",
)
REFERENCE = Reference(
    Technology.TDX,
    measurement=(b"i" * 48).hex(),
    registers=tuple(register.hex() for register in LOG.replay()[:RUNTIME]),
    events={event.name: event.digest.hex() for event in LOG.events},
    signer=(b"s" * 48).hex(),
    versions=(3, 2),
)
SIGNED = Reference(Technology.SNP, signer=(b"s" * 48).hex())
MACHINES = Machines((ROOT,), (REFERENCE,))


def test_a_machine_that_is_as_the_reference_says_counts() -> None:
    assert MACHINES.complaints(REPORT, LOG, NOW) == []
    assert Machines((ROOT,), (Reference(Technology.TDX, events=REFERENCE.events),)).complaints(REPORT, LOG, NOW) == []


OTHER = EventLog((LOG.events[0], Event.of(RUNTIME, "recipe", b"another")))
CASES: dict[str, tuple[Callable[[Report], Report], EventLog, Flaw, str]] = {
    "another image": (lambda each: replace(each, measurement=bytes(48)), LOG, Flaw.MEASUREMENT, "the image"),
    "other firmware": (
        lambda each: replace(each, registers=(b"r" * 48, *each.registers[1:])),
        LOG,
        Flaw.MEASUREMENT,
        "register 0",
    ),
    "no registers": (lambda each: replace(each, registers=()), LOG, Flaw.MEASUREMENT, "register 0"),
    "another recipe": (lambda each: each, OTHER, Flaw.MEASUREMENT, "its recipe is not"),
    "no recipe": (lambda each: each, EventLog(LOG.events[:1]), Flaw.MEASUREMENT, "its recipe was not measured"),
    "a recipe that changed back": (
        lambda each: each,
        EventLog((*LOG.events, *OTHER.events[1:], LOG.events[1])),
        Flaw.MEASUREMENT,
        "its recipe has changed",
    ),
    "something besides": (
        lambda each: each,
        LOG.extended(Event.of(RUNTIME, "debugger", b"?")),
        Flaw.MEASUREMENT,
        "debugger",
    ),
    "another signer": (lambda each: replace(each, signer=bytes(48)), LOG, Flaw.SIGNER, "signed by 0000"),
    "an old version": (lambda each: replace(each, versions=(3, 1, 9)), LOG, Flaw.VERSION, "at least [3, 2]"),
    "no versions": (lambda each: replace(each, versions=()), LOG, Flaw.VERSION, "versions []"),
    "debug": (lambda each: replace(each, debug=True), LOG, Flaw.DEBUG, "look into it"),
    "a guest that moves": (lambda each: replace(each, migratable=True), LOG, Flaw.DEBUG, "another machine"),
    "less privilege": (lambda each: replace(each, privilege=2), LOG, Flaw.MEASUREMENT, "level 2"),
    "out of date": (
        lambda each: replace(each, status="OutOfDate", advisories=("INTEL-SA-00615",)),
        LOG,
        Flaw.STATUS,
        "INTEL-SA-00615",
    ),
    "old collateral": (lambda each: replace(each, issued=NOW - 31 * DAY), LOG, Flaw.STALE, "31 days"),
    "a revoked processor": (lambda each: replace(each, serial="bad"), LOG, Flaw.REVOKED, "bad"),
    "one that is listed as OpenSSL writes it": (lambda each: replace(each, serial="c0de"), LOG, Flaw.REVOKED, "c0de"),
    "another technology": (lambda each: replace(each, technology=Technology.SNP), LOG, Flaw.MEASUREMENT, "sev-snp"),
}


@pytest.mark.parametrize(("change", "log", "flaw", "detail"), CASES.values(), ids=CASES)
def test_a_machine_that_is_not_does_not_count(
    change: Callable[[Report], Report], log: EventLog, flaw: Flaw, detail: str
) -> None:
    machines = replace(MACHINES, revoked=("bad", "00c0de"))
    complaints = machines.complaints(change(REPORT), log, NOW)
    assert [each.flaw for each in complaints if detail in each.detail] == [flaw]


def test_debug_and_other_words_of_the_maker_count_where_they_are_allowed() -> None:
    machines = replace(MACHINES, debug=True, statuses=("UpToDate", "OutOfDate"))
    assert machines.complaints(replace(REPORT, debug=True, status="OutOfDate"), LOG, NOW) == []


def test_a_processor_without_status_is_judged_by_its_versions() -> None:
    assert MACHINES.complaints(replace(REPORT, status=""), LOG, NOW) == []


def test_of_several_references_one_is_enough_and_the_nearest_explains() -> None:
    far = Reference(Technology.TDX, measurement="00" * 48, events={"code": "00" * 48}, signer="00" * 48)
    machines = replace(MACHINES, references=(far, REFERENCE))
    assert machines.complaints(REPORT, LOG, NOW) == []
    (complaint,) = machines.complaints(replace(REPORT, signer=bytes(48)), LOG, NOW)
    assert complaint.flaw is Flaw.SIGNER


def test_that_it_is_simulated_is_for_the_policy_to_allow() -> None:
    assert REPORT.simulated
    assert MACHINES.complaints(REPORT, LOG, NOW) == []


# ---- in a trust file ------------------------------------------------------------------------------------------------

AUTHORITY = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def test_what_is_pinned_is_read_as_it_was_written(tmp_path: Path) -> None:
    own = Root(Technology.SNP, None, False)
    pinned_of = (replace(REFERENCE, signer=""), SIGNED)
    machines = Machines((ROOT, own), pinned_of, days=7, minutes=5, debug=True, revoked=("0a", "ff"))
    for pinned in (None, machines, Machines((own,), ())):
        Anchors(AUTHORITY, (), machines=pinned).save(tmp_path / "trust.toml")
        assert Anchors.load(tmp_path / "trust.toml").machines == pinned


WRONG = {
    "machines.roots: there has to be one": "",
    "machines.roots: must be a list": "roots = 3",
    "machines.roots[0]: must be a table": "roots = [3]",
    "machines.roots[0].technology: must be one of tdx, sev-snp, not 'sgx'": 'roots = [{technology = "sgx"}]',
    "machines.roots[0].certificate": 'roots = [{technology = "tdx", certificate = "?"}]',
    "machines.roots[0].simulated: must be true or false": 'roots = [{technology = "tdx", simulated = 1}]',
    "the maker's own root is no simulation": 'roots = [{technology = "tdx", simulated = true}]',
    "is no maker's own: it has to be simulated = true": 'roots = [{technology = "tdx", certificate = "AAAA"}]',
    "machines.references[0].measurement: without it every image counts": 'references = [{technology = "tdx"}]',
    "references[0].measurement: without it": f'references = [{{technology = "sev-snp", signer = "{"00" * 48}"}}]',
    "references[0].signer: tdx tells of none": f'references = [{{technology = "tdx", signer = "{"00" * 48}"}}]',
    "machines.roots[0].key: not a key": 'roots = [{technology = "tdx", key = 1}]',
    "machines.days: must be a whole number": "days = 0",
    "machines.debug: must be true or false": 'debug = "no"',
    "machines.statuses: must be a list": 'statuses = "UpToDate"',
    "machines.revoked: must be a list of serial numbers": 'revoked = ["XY"]',
    "machines.day: not a key": "day = 3",
    "machines.references[0].measurement: must be a digest": 'references = [{technology = "tdx", measurement = "00"}]',
    "machines.references[0].registers: must be a list": 'references = [{technology = "tdx", registers = 3}]',
    "machines.references[0].events: must be a table": 'references = [{technology = "tdx", events = 3}]',
    "machines.references[0].registers[1]: must be a digest": 'references = [{technology = "tdx", registers = ["", 3]}]',
    "machines.references[0].versions: must be a list": 'references = [{technology = "tdx", versions = [-1]}]',
    "machines.references[0].events: 'A B' is no name": 'references = [{technology = "tdx", events = {"A B" = ""}}]',
    "machines.references[0].events.code: must be a digest": 'references = [{technology = "tdx", events = {code = 3}}]',
}


@pytest.mark.parametrize(("message", "text"), WRONG.items(), ids=WRONG)
def test_what_cannot_be_pinned_is_an_error_that_names_file_and_key(tmp_path: Path, message: str, text: str) -> None:
    file = tmp_path / "trust.toml"
    Anchors(AUTHORITY, ()).save(file)
    file.write_text(f"{file.read_text()}\n[machines]\n{text}\n")
    with pytest.raises(UserError) as refused:
        Anchors.load(file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{file}: machines")
