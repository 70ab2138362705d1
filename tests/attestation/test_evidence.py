"""Evidence in its one form: all of it is checked, whatever its technology, and nothing of it can be exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from decentral import canonical
from decentral.attestation.attester import RUNTIME, Quoted
from decentral.attestation.evidence import MOST_QUOTE, Evidence, host_data, verify_evidence
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.registers import Event, EventLog
from decentral.attestation.report import Flaw, NotGenuine, Technology
from decentral.attestation.snp.authority import SnpAuthority
from decentral.attestation.snp.platform import SnpPlatform
from tests.attestation.world import IMAGE, LOG, NOW, STRANGER, TDX

BOUND = bytes(range(64))
KEY, VOICE = bytes(32), bytes(range(32))
OTHER = EventLog((LOG.events[0], Event.of(RUNTIME, "recipe", b"another")))


def shown(simulation: Simulation = TDX, log: EventLog = LOG) -> Evidence:
    quote = simulation.quote(BOUND, IMAGE, log)
    return Evidence.of(Quoted(simulation.technology, quote, log, simulation.collateral(NOW), b"files"), KEY, VOICE)


@pytest.fixture(scope="module")
def snp(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return Simulation.open(tmp_path_factory.mktemp("snp"), Technology.SNP, NOW)


def test_evidence_is_read_as_it_was_written_and_in_no_other_words() -> None:
    evidence = shown()
    assert Evidence.parse(evidence.encoded()) == evidence
    assert Evidence.parse(evidence.short.encoded()) == evidence.short
    assert evidence.short.manifest == b""
    with pytest.raises(NotGenuine) as refused:
        Evidence.parse(evidence.encoded() + b" ")
    assert refused.value.flaw is Flaw.NOT_CANONICAL


WRONG = {
    "no technology": {"technology": "sgx"},
    "no bytes": {"quote": 3},
    "a key of another length": {"key": canonical.text(bytes(31))},
    "a voice of another length": {"voice": canonical.text(bytes(31))},
    "no log": {"log": canonical.text(b"[")},
    "more than it has": {"more": 1},
    "a quote without end": {"quote": canonical.text(bytes(MOST_QUOTE + 1))},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_what_is_no_evidence_is_not_genuine(changes: dict[str, object]) -> None:
    with pytest.raises(NotGenuine):
        Evidence.parse(canonical.encode({**shown().plain(), **changes}))


@pytest.mark.parametrize("value", [b"3", b"[]", b"null", b'{"quote":""}'])
def test_other_json_is_no_evidence(value: bytes) -> None:
    with pytest.raises(NotGenuine):
        Evidence.parse(value)


def test_both_technologies_are_verified_down_to_the_log(snp: Simulation) -> None:
    for simulation in (TDX, snp):
        report = verify_evidence(shown(simulation), BOUND, [TDX.root, snp.root], NOW)
        assert (report.technology, report.measurement) == (simulation.technology, IMAGE)


CHANGES = {
    "another log": (lambda each: replace(each, log=OTHER), BOUND, Flaw.EVENTS),
    "no log": (lambda each: replace(each, log=EventLog()), BOUND, Flaw.EVENTS),
    "an event more": (lambda each: replace(each, log=LOG.extended(LOG.events[0])), BOUND, Flaw.EVENTS),
    "bound to something else": (lambda each: each, bytes(64), Flaw.BINDING),
    "a quote that goes on": (lambda each: replace(each, quote=each.quote + b"\0"), BOUND, None),
    "a quote of no bytes": (lambda each: replace(each, quote=b""), BOUND, Flaw.MALFORMED),
    "no collateral": (lambda each: replace(each, collateral=b""), BOUND, None),
    "collateral of another maker": (lambda each: replace(each, collateral=STRANGER.collateral(NOW)), BOUND, None),
}


@pytest.mark.parametrize(("change", "bound", "flaw"), CHANGES.values(), ids=CHANGES)
def test_whatever_is_exchanged_is_found(snp: Simulation, change: object, bound: bytes, flaw: Flaw | None) -> None:
    for simulation in (TDX, snp):
        evidence = change(shown(simulation))  # type: ignore[operator]
        with pytest.raises(NotGenuine) as refused:
            verify_evidence(evidence, bound, [TDX.root, snp.root], NOW)
        assert flaw is None or refused.value.flaw is flaw


def test_a_guest_that_was_given_nothing_along_is_judged_by_its_image_alone(tmp_path: Path) -> None:
    maker, processor = SnpAuthority.create(NOW - 300), b"p" * 32
    platform = SnpPlatform.certified(maker, processor, maker.starts)
    collateral = platform.collateral(maker.revoked(NOW - 300)).encode()
    for given, counts in ((bytes(32), True), (host_data(EventLog()), True), (b"h" * 32, False)):
        report = platform.report(BOUND, IMAGE, host_data=given)
        evidence = Evidence(Technology.SNP, report, EventLog(), collateral, KEY, VOICE)
        if counts:
            assert verify_evidence(evidence, BOUND, [maker.root], NOW).configuration == given
            continue
        with pytest.raises(NotGenuine) as refused:
            verify_evidence(evidence, BOUND, [maker.root], NOW)
        assert refused.value.flaw is Flaw.EVENTS


def test_one_technologys_evidence_is_not_read_as_anothers(snp: Simulation) -> None:
    for simulation, other in ((TDX, Technology.SNP), (snp, Technology.TDX)):
        with pytest.raises(NotGenuine):
            verify_evidence(replace(shown(simulation), technology=other), BOUND, [TDX.root, snp.root], NOW)


def test_a_log_in_registers_of_the_firmware_does_not_count(tmp_path: Path) -> None:
    """What a node runs is in the last register; a log that fills others could hide there what was measured at start."""
    log = EventLog((*LOG.events, Event.of(0, "firmware", b"?")))
    with pytest.raises(NotGenuine) as refused:
        verify_evidence(shown(TDX, log), BOUND, [TDX.root], NOW)
    assert refused.value.flaw is Flaw.EVENTS
