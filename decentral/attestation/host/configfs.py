"""Evidence of a real confidential virtual machine: Linux's configfs-tsm, for Intel TDX and AMD SEV-SNP alike.

`/sys/kernel/config/tsm/report/NAME/` appears when it is made; 64 bytes are written to `inblob` and the quote or report
is read from `outblob`, unless `generation` tells that somebody else has written meanwhile (Documentation/ABI/testing/
configfs-tsm-report of Linux 6.7 and later). TDX guests extend RTMR 3 through `rtmr3:sha384` (Linux 6.16).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from decentral.attestation.attester import RUNTIME, Quoted, Unattested
from decentral.attestation.registers import Event, EventLog, extend
from decentral.attestation.report import REPORT_DATA_BYTES, NotGenuine, Technology
from decentral.attestation.snp.table import from_table
from decentral.attestation.tdx.quote import trimmed

SYSTEM = Path("/sys")
REPORTS = "kernel/config/tsm/report"
REGISTERS = "devices/virtual/misc/tdx_guest/measurements"
PROVIDERS = {"tdx_guest": Technology.TDX, "sev_guest": Technology.SNP}
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Configfs:
    """The kernel's interface. `system`: where sysfs is mounted."""

    system: Path = SYSTEM

    @property
    def here(self) -> bool:
        """Whether this kernel offers reports: also one that does not make them for this user. Blocking."""
        if not (self.system / REPORTS).is_dir():
            return False
        try:
            self.provider()
        except Unattested as error:
            cause = error.__cause__
            return not (isinstance(cause, OSError) and cause.errno == errno.ENXIO)  # the interface of no guest
        return True

    def report(self, report_data: bytes) -> tuple[Technology, bytes, bytes]:
        """The technology, the quote or report, and what the host gave along (certificates of SEV-SNP). Blocking.

        Raises Unattested.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"{REPORT_DATA_BYTES} bytes are signed along, not {len(report_data)}")
        entry = self.system / REPORTS / f"decentral-{os.getpid()}"
        try:
            entry.mkdir(exist_ok=True)
            for _ in range(ATTEMPTS):
                before = int((entry / "generation").read_text())
                (entry / "inblob").write_bytes(report_data)
                quote, provider = (entry / "outblob").read_bytes(), (entry / "provider").read_text().strip()
                also = (entry / "auxblob").read_bytes() if (entry / "auxblob").exists() else b""
                if int((entry / "generation").read_text()) == before + 1:  # one write since: ours
                    break
            else:
                raise Unattested(f"{entry}: others write there all the time")
        except OSError as error:
            raise Unattested(f"{entry}: the kernel makes no report ({error.strerror or error})") from error
        except ValueError as error:  # of a generation that is no number
            raise Unattested(f"{entry}: the kernel's interface is another one ({error})") from error
        if (technology := PROVIDERS.get(provider)) is None:
            raise Unattested(f"{entry}: reports of {provider!r} cannot be read here")
        return technology, trimmed(quote) if technology is Technology.TDX else quote, also

    def provider(self) -> str:
        """Whose reports the kernel makes, in its words (`PROVIDERS`). Blocking. Raises Unattested."""
        entry = self.system / REPORTS / f"decentral-provider-{os.getpid()}"
        try:
            entry.mkdir(exist_ok=True)
            try:
                return (entry / "provider").read_text().strip()
            finally:
                entry.rmdir()
        except OSError as error:
            raise Unattested(f"{entry}: the kernel does not tell ({error.strerror or error})") from error

    def register(self) -> bytes | None:
        """The run-time register, 48 bytes; None on a machine that has none. Blocking. Raises Unattested."""
        try:
            return self._register_file.read_bytes() if self._register_file.exists() else None
        except OSError as error:
            raise Unattested(f"{self._register_file}: cannot be read ({error.strerror or error})") from error

    @property
    def _register_file(self) -> Path:
        return self.system / REGISTERS / f"rtmr{RUNTIME}:sha384"

    def extend(self, events: Sequence[Event], log: EventLog | None = None) -> EventLog:
        """Extends the run-time register with these, in turn; what was extended is the log. Blocking.

        `log`: what this machine was extended with before. Empty on a machine that has no such register: its image is
        all that is measured. Raises Unattested, also where somebody else has extended the register: nobody could replay
        it then.
        """
        file = self._register_file
        if not file.exists():
            return EventLog()
        log = log or EventLog()
        register = log.replay()[RUNTIME]
        try:
            if file.read_bytes() != register:
                raise Unattested(f"{file}: was extended by somebody else, so its events are not known")
            for event in events:
                file.write_bytes(event.extension)
                log, register = log.extended(event), extend(register, event.extension)
                if file.read_bytes() != register:
                    raise Unattested(f"{file}: was extended by somebody else")
        except OSError as error:
            raise Unattested(f"{file}: cannot be extended ({error.strerror or error})") from error
        return log


class HardwareAttester:
    """The machine itself. `manifest`: the measured code.

    `collateral`: what its maker says of it, in the form of a file, by now; no bytes, what the host gives along.
    """

    def __init__(
        self, configfs: Configfs, log: EventLog, *, collateral: Callable[[], bytes] = bytes, manifest: bytes = b""
    ) -> None:
        self._configfs, self._log = configfs, log
        self._collateral, self._manifest = collateral, manifest

    async def log(self) -> EventLog:
        return self._log

    async def quote(self, report_data: bytes) -> Quoted:
        return await asyncio.to_thread(self._quote, report_data)

    def _quote(self, report_data: bytes) -> Quoted:
        technology, quote, also = self._configfs.report(report_data)
        collateral = self._collateral() or _given_along(technology, also)
        return Quoted(technology, quote, self._log, collateral, self._manifest)


def _given_along(technology: Technology, also: bytes) -> bytes:
    """Of the certificates that a host of SEV-SNP hands out, if they are all that a verifier needs; else no bytes."""
    try:
        return from_table(also).encode() if technology is Technology.SNP else b""
    except NotGenuine:
        return b""
