"""What a real machine has been extended with since it started, as a file keeps it for all that run there.

A register says what it has come to, and not how: without the log nobody can replay it. The log is written before the
register is extended, and only so much of it counts as leads to what the register is: nothing of it, after the machine
was started again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from decentral import lock
from decentral.attestation.attester import RUNTIME, Unattested
from decentral.attestation.evidence import host_data
from decentral.attestation.host.configfs import Configfs
from decentral.attestation.registers import Event, EventLog
from decentral.attestation.report import REPORT_DATA_BYTES, NotGenuine, Technology
from decentral.attestation.snp.report import SnpReport
from decentral.files import write_atomic

WAITING = 10.0
"""Seconds for others who extend the register."""


def extended(configfs: Configfs, events: Sequence[Event], file: Path) -> EventLog:
    """The log, once the machine was extended with those of these events that it does not have yet. Blocking.

    A machine without such a register (SEV-SNP) has the events if its host gave their digest along when it was started,
    and otherwise none: its image is all that is measured then. Raises Unattested.
    """
    with _alone(file):
        log = kept(configfs, events, file)
        if configfs.register() is None:
            return log
        last = {event.name: event for event in log.events}
        for event in events:
            if last.get(event.name) != event:
                longer = log.extended(event)
                write_atomic(file, longer.encoded(), private=True)
                log = configfs.extend([event], log)
        return log


def kept(configfs: Configfs, events: Sequence[Event], file: Path) -> EventLog:
    """The log as it is, without extending anything. `events`: what the host may have given along. Blocking.

    Raises Unattested where the register was extended by others, so that nobody can replay it.
    """
    register = configfs.register()
    if register is None:
        return _given_along(configfs, EventLog(tuple(events)))
    try:
        log = EventLog.parse(file.read_bytes()) if file.exists() else EventLog()
    except (OSError, NotGenuine) as error:
        raise Unattested(f"{file}: is no log of what this machine was extended with ({error})") from error
    for length in range(len(log.events), -1, -1):
        begun = EventLog(log.events[:length])
        if begun.replay()[RUNTIME] == register:
            return begun
    raise Unattested(f"{file}: others have extended this machine too; each cluster needs a machine of its own")


def _given_along(configfs: Configfs, log: EventLog) -> EventLog:
    technology, report, _ = configfs.report(bytes(REPORT_DATA_BYTES))
    if technology is not Technology.SNP:
        return EventLog()
    try:
        return log if SnpReport.parse(report).host_data == host_data(log) else EventLog()
    except NotGenuine as error:
        raise Unattested(f"this machine's report cannot be read: {error}") from error


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Raises Unattested if others are at it all the time."""
    try:
        held = lock.taken_here(file.with_name(f"{file.name}.lock"), WAITING)
    except TimeoutError as error:
        raise Unattested(f"{file}: others extend this machine all the time") from error
    try:
        yield
    finally:
        os.close(held)
