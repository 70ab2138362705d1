"""A machine is extended once with what runs there, and its log is the one that its register came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from decentral import lock
from decentral.attestation.attester import RUNTIME, Unattested
from decentral.attestation.host.configfs import Configfs
from decentral.attestation.host.extending import extended, kept
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.registers import ZERO, Event, EventLog, extend
from decentral.attestation.report import Technology
from tests.attestation.world import IMAGE

CODE, RECIPE = Event.of(RUNTIME, "code", b"files"), Event.of(RUNTIME, "recipe", b"yaml")


class Machine(Configfs):
    """A register in memory."""

    value: bytes | None = ZERO
    breaks: bool = False
    """Whether it breaks instead of extending."""

    def register(self) -> bytes | None:
        return type(self).value

    def extend(self, events: Sequence[Event], log: EventLog | None = None) -> EventLog:
        if self.breaks:
            raise Unattested("it broke")
        log = log or EventLog()
        for event in events:
            assert log.replay()[RUNTIME] == type(self).value
            type(self).value = extend(log.replay()[RUNTIME], event.extension)
            log = log.extended(event)
        return log


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(Machine, "value", ZERO)
    return Machine()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_nodes_of_one_machine_share_what_it_was_extended_with(machine: Machine, file: Path) -> None:
    assert kept(machine, [CODE], file) == EventLog()
    log = extended(machine, [CODE, RECIPE], file)
    assert log == EventLog((CODE, RECIPE)) and log.replay()[RUNTIME] == Machine.value
    assert extended(machine, [CODE, RECIPE], file) == kept(machine, [], file) == log
    other = Event.of(RUNTIME, "code", b"other files")
    assert extended(machine, [other, RECIPE], file) == EventLog((CODE, RECIPE, other))
    assert extended(machine, [CODE], file) == EventLog((CODE, RECIPE, other, CODE)), "nothing is measured away"


def test_a_machine_that_was_started_again_begins_anew(machine: Machine, file: Path) -> None:
    extended(machine, [CODE, RECIPE], file)
    Machine.value = ZERO
    assert kept(machine, [], file) == EventLog()
    assert extended(machine, [RECIPE], file) == EventLog((RECIPE,))


def test_who_was_killed_between_log_and_register_leaves_both_usable(
    machine: Machine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended(machine, [CODE], file)
    monkeypatch.setattr(Machine, "breaks", True)
    with pytest.raises(Unattested, match="it broke"):
        extended(machine, [CODE, RECIPE], file)
    monkeypatch.setattr(Machine, "breaks", False)
    assert EventLog.parse(file.read_bytes()) == EventLog((CODE, RECIPE))
    assert kept(machine, [], file) == EventLog((CODE,))
    assert extended(machine, [CODE, RECIPE], file) == EventLog((CODE, RECIPE))


@pytest.mark.parametrize("known", [True, False])
def test_what_others_have_extended_cannot_be_replayed(machine: Machine, file: Path, known: bool) -> None:
    if known:
        extended(machine, [CODE], file)
    Machine.value = b"x" * 48
    for read in (kept, extended):
        with pytest.raises(Unattested, match="a machine of its own"):
            read(machine, [CODE], file)


def test_a_damaged_log_is_named(machine: Machine, file: Path) -> None:
    file.write_bytes(b"{")
    with pytest.raises(Unattested, match="is no log"):
        kept(machine, [], file)


@pytest.mark.parametrize("given", [True, False])
def test_without_a_register_the_host_has_given_the_events_along_or_there_are_none(
    machine: Machine, file: Path, given: bool, monkeypatch: pytest.MonkeyPatch, sev_snp: Simulation
) -> None:
    log = EventLog((CODE, RECIPE))
    report = sev_snp.quote(bytes(64), IMAGE, log if given else EventLog((CODE,)))
    monkeypatch.setattr(Machine, "value", None)
    monkeypatch.setattr(Machine, "report", lambda self, data: (Technology.SNP, report, b""))
    assert extended(machine, log.events, file) == (log if given else EventLog())
    monkeypatch.setattr(Machine, "report", lambda self, data: (Technology.TDX, b"", b""))
    assert extended(machine, log.events, file) == EventLog(), "an old kernel of TDX extends nothing"
    monkeypatch.setattr(Machine, "report", lambda self, data: (Technology.SNP, report[:-1], b""))
    with pytest.raises(Unattested, match="cannot be read"):
        extended(machine, log.events, file)


def test_who_extends_waits_for_the_others_but_not_for_ever(
    machine: Machine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decentral.attestation.host.extending.WAITING", 0.0)
    held = lock.take(file.with_name("log.lock"))
    assert held is not None
    with pytest.raises(Unattested, match="all the time"):
        extended(machine, [CODE], file)
    os.close(held)
    assert extended(machine, [CODE], file) == EventLog((CODE,))
