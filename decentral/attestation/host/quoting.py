"""A simulated processor's own process: it holds the keys, measures whoever asks for a quote, and signs what it found.

A node connects to its Unix socket, and the kernel tells who that is. The process looks at the files of what that node
runs at every request; what has changed extends the node's registers once more, so that nothing is measured away again.
Who may open the socket may have quotes about itself, and about nobody else.

Requests and replies are JSON in its canonical form, a line each: `{"log": true}`, `{"sign": "<64 bytes>"}`,
`{"sealing": true}`, or `{"key": "measurement", "version": 0}`: keys follow from what was measured (`keys`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from decentral import canonical
from decentral.attestation.attester import Quoted, Unattested
from decentral.attestation.host.measuring import CODE, RECIPE, Measurement, Measurer
from decentral.attestation.host.processes import Running, caller, is_running, node
from decentral.attestation.host.release import Release
from decentral.attestation.registers import EventLog
from decentral.attestation.report import REGISTER_BYTES, REPORT_DATA_BYTES, NotGenuine, Technology
from decentral.attestation.sealing import SALT, Guest, KeyPolicy, MachineKeys
from decentral.errors import DecentralError, Malformed, UserError
from decentral.files import write_atomic

ADDRESS = "quoting"
"""The file, in a cluster's folder, that names the socket."""
PREFIX = "decentral-"
"""Of the socket's own folder."""
DEADLINE = 10.0
"""Seconds for one request."""
MOST_BYTES = 8 << 20
"""Of one line."""
MOST_PROCESSES = 1000
T = TypeVar("T")


class Platform(Protocol):
    """A simulated processor with its keys."""

    @property
    def technology(self) -> Technology: ...

    def quote(self, report_data: bytes, image: bytes, log: EventLog) -> bytes:
        """About a machine that was started with that image (48 bytes), and has since extended what the log says."""

    def collateral(self, now: int) -> bytes:
        """What its maker says of it at that time (seconds since 1970)."""


@dataclass
class Quoting:
    """What the process does, apart from how it is asked. `clock`: seconds since 1970; `look`: what a process runs.

    `secret`: the machine's, from which keys follow; empty: it has none. `release`: what somebody has signed.
    """

    platform: Platform
    measurer: Measurer
    clock: Callable[[], float]
    look: Callable[[int], Running] = node
    secret: bytes = field(default=b"", repr=False)
    release: Callable[[], Release | None] = lambda: None
    _logs: dict[tuple[int, int], EventLog] = field(default_factory=dict)

    def log(self, process: Running) -> EventLog:
        """Blocking. Raises UserError."""
        return self._measured(process)[1]

    def quote(self, process: Running, report_data: bytes) -> Quoted:
        """Blocking. Raises UserError for a process that cannot be measured."""
        found, log = self._measured(process)
        quote = self.platform.quote(report_data, found.image, log)
        collateral = self.platform.collateral(int(self.clock()))
        return Quoted(self.platform.technology, quote, log, collateral, found.manifest.encoded())

    def keys(self, process: Running) -> MachineKeys:
        """Those of the image, code and recipe that it runs, and of who has signed image and code. Blocking.

        The owner may change policy and model of a cluster, and its nodes go on with what they have sealed. Raises
        UserError.
        """
        if not self.secret:
            raise UserError("this machine has no secret to seal with")
        found, log = self._measured(process)
        events = tuple(event for event in log.events if event.name in (CODE, RECIPE))
        codes = [event.digest for event in events if event.name == CODE]
        signer, version, release = bytes(REGISTER_BYTES), 0, self.release()
        if release is not None and len(codes) == 1 and release.covers(found.image, codes[0]):
            signer, version = release.signer, release.version
        return MachineKeys(self.secret, Guest(found.image, EventLog(events).replay(), signer, version))

    def _measured(self, process: Running) -> tuple[Measurement, EventLog]:
        found, whose = self.measurer.measure(process), (process.pid, process.started)
        if whose not in self._logs and len(self._logs) >= MOST_PROCESSES:
            self._forget_ended()
        log = self._logs.get(whose, EventLog())
        last = {event.name: event for event in log.events}
        try:
            for event in found.events:
                if last.get(event.name) != event:
                    log = log.extended(event)
        except NotGenuine as error:
            raise UserError(f"process {process.pid}: its files change all the time ({error.detail})") from None
        self._logs[whose] = log
        return found, log

    def _forget_ended(self) -> None:
        """What a process was extended with is kept as long as it runs. Raises UserError where too many do."""
        for pid, started in list(self._logs):
            if not is_running(pid, started):
                del self._logs[pid, started]
        if len(self._logs) >= MOST_PROCESSES:
            raise UserError(f"{MOST_PROCESSES} processes are measured already")


@contextlib.asynccontextmanager
async def serving(quoting: Quoting, place: Path, folder: Path) -> AsyncIterator[None]:
    """Answers at a Unix socket in `place`, a folder with a short name; `folder`, the cluster's, says where that is."""
    asked = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                line = await reader.readuntil(b"\n")
            async with asked:
                reply = await asyncio.to_thread(_answered, quoting, writer.get_extra_info("socket"), line[:-1])
            writer.write(canonical.encode(reply) + b"\n")
            async with asyncio.timeout(DEADLINE):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who does not ask, or does not listen, hears nothing
        finally:
            writer.close()

    path = place / "socket"
    server = await asyncio.start_unix_server(answer, path, limit=1024)
    try:
        path.chmod(0o600)
        write_atomic(folder / ADDRESS, str(path).encode())
        yield
    finally:
        (folder / ADDRESS).unlink(missing_ok=True)
        server.close()
        path.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Removes what a process has left that was killed. Blocking. Raises UserError if one of this cluster answers."""
    if not (folder / ADDRESS).exists():
        return
    path = Path((folder / ADDRESS).read_text())
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(path))
    except OSError:
        if path.is_socket() and path.parent.name.startswith(PREFIX):  # whatever else is named there stays
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()
    else:
        raise UserError(f"{folder}: its simulated processor runs already, at {path}")


def _answered(quoting: Quoting, connection: socket.socket, line: bytes) -> dict[str, Any]:
    try:
        request = canonical.decode(line)
        return _granted(quoting, quoting.look(caller(connection)), request)
    except (DecentralError, ValueError) as error:  # also of a policy that is none
        return {"problem": str(error)}


def _granted(quoting: Quoting, process: Running, request: object) -> dict[str, Any]:
    match request:
        case {"log": True, **rest} if not rest:
            return {"log": canonical.text(quoting.log(process).encoded())}
        case {"sign": str(signed), **rest} if not rest:
            quoted = quoting.quote(process, canonical.data(signed, REPORT_DATA_BYTES))
            return {
                "technology": quoted.technology.value,
                "quote": canonical.text(quoted.quote),
                "log": canonical.text(quoted.log.encoded()),
                "collateral": canonical.text(quoted.collateral),
                "manifest": canonical.text(quoted.manifest),
            }
        case {"sealing": True, **rest} if not rest:
            keys = quoting.keys(process)
            tag = canonical.text(keys.machine(SALT))
            return {"version": keys.version, "signed": any(keys.guest.signer), "machine": tag}
        case {"key": str(policy), "version": int(version), **rest} if not rest and version >= 0:
            return {"key": canonical.text(quoting.keys(process).key(KeyPolicy(policy), version, SALT))}
    return {"problem": "asked for what is no request"}


class QuotingAttester:
    """A node's way to the process. `folder`: the cluster's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def log(self) -> EventLog:
        reply = await self._ask({"log": True})
        return read_reply(lambda: EventLog.parse(canonical.data(reply["log"])))

    async def quote(self, report_data: bytes) -> Quoted:
        reply = await self._ask({"sign": canonical.text(report_data)})
        return read_reply(
            lambda: Quoted(
                Technology(reply["technology"]),
                canonical.data(reply["quote"]),
                EventLog.parse(canonical.data(reply["log"])),
                canonical.data(reply["collateral"]),
                canonical.data(reply["manifest"]),
            )
        )

    async def _ask(self, request: dict[str, object]) -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                where = (self._folder / ADDRESS).read_text()
                reader, writer = await asyncio.open_unix_connection(where, limit=MOST_BYTES)
                try:
                    writer.write(canonical.encode(request) + b"\n")
                    await writer.drain()
                    line = await reader.readuntil(b"\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Unattested(f"the quoting process does not answer ({error or type(error).__name__})") from error
        return answered(line)


def answered(line: bytes) -> Any:
    """What a reply says. Raises Unattested, with the process's own words if it refuses."""
    reply = read_reply(lambda: canonical.decode(line[:-1]))
    if "problem" in reply:
        raise Unattested(str(reply["problem"]))
    return reply


def read_reply(reading: Callable[[], T]) -> T:
    try:
        return reading()
    except (Malformed, NotGenuine, KeyError, TypeError, ValueError) as error:
        raise Unattested(f"the quoting process answered what cannot be read ({error})") from error
