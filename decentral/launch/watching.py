"""A node reads what its authority rules, and keeps to it: who is no longer admitted, whose certificates are too old.

It looks at the file that the cluster's folder has for everybody, every second, and asks the authority once a minute, in
case the folder is this machine's alone. What it has read it keeps in its own folder, so that after a restart too an
older notice changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from decentral.errors import DecentralError, Malformed, RunDirectoryError, TransportError
from decentral.files import write_atomic
from decentral.run.journal import Journal
from decentral.wire.certificate import AUTHORITIES, Credentials
from decentral.wire.enrolment import announced
from decentral.wire.messages import PeerId
from decentral.wire.notice import FILE, MOST_BYTES, Admitted, Notice, read_notice

_LOG = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between looks at the file."""
ASK = 60.0
"""Seconds between questions to the authority."""
DEADLINE = 20.0
"""Seconds that it has to answer."""
Stamp = tuple[int, int, int] | None


class Enforcing(Protocol):
    """What ends calls with those who are not admitted: the node's transport."""

    def enforce(self) -> None: ...


class Certified(Protocol):
    """What keeps the node certified."""

    @property
    def credentials(self) -> Credentials: ...

    def hurry(self) -> None:
        """The certificate is to be replaced now."""

    def show(self, credentials: Credentials) -> None:
        """The same, with other authorities that count."""


class Revoked(DecentralError):
    """The node's own identity is not admitted any more: nobody talks to it."""


class Watch:
    """One node's. `authority` gives the address to ask, and is asked for it at every attempt; empty: there is none."""

    def __init__(
        self,
        transport: Enforcing,
        certified: Certified,
        admitted: Admitted,
        own: PeerId,
        *,
        run: Path,
        folder: Path,
        authority: Callable[[], str],
        journal: Journal,
    ) -> None:
        self._transport, self._certified, self._admitted, self._own = transport, certified, admitted, own
        self._file, self._kept = run / FILE, folder / FILE
        self._authority, self._journal = authority, journal
        self._seen: Stamp = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Watch]:
        """For as long as the body runs. Raises Revoked, in what a TaskGroup raises, where the node itself is."""
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(self._look()), tasks.create_task(self._ask())]
            try:
                yield self
            finally:
                for task in watching:
                    task.cancel()

    async def _look(self) -> None:
        while True:
            if (stamp := _stamp(self._file)) != self._seen:
                self._seen = stamp
                self._take(_content(self._file))
            self._keep_certified()
            await asyncio.sleep(LOOK)

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(ASK * random.uniform(0.5, 1.0))  # noqa: S311  not all nodes ask at once
            with contextlib.suppress(TransportError, RunDirectoryError):  # it may be away
                if not (address := self._authority()):
                    continue
                known, authorities = self._admitted.sequence, self._certified.credentials.authority
                self._take(await announced(address, authorities, known, deadline=DEADLINE))

    def _take(self, data: bytes) -> None:
        """Keeps to a notice that is newer than what was known. Raises Revoked, DecentralError."""
        if not data:
            return
        try:
            notice = read_notice(data, self._certified.credentials.authority)
        except Malformed as error:
            self._journal.record("unbelieved", problem=str(error))
            _LOG.warning("a notice of the authority is not believed: %s", error)
            return
        if not self._admitted.take(notice):
            return
        write_atomic(self._kept, data, private=True)
        self._journal.record("noticed", sequence=notice.sequence, revoked=sorted(notice.revoked))
        check_own(notice, self._own, self._journal)
        if notice.pem != self._certified.credentials.authority:
            self._replace_authorities(notice.pem)
        self._transport.enforce()

    def _replace_authorities(self, authorities: bytes) -> None:
        """Raises DecentralError where this node's certificate is of none of them."""
        present = replace(self._certified.credentials, authority=authorities)
        try:
            present.check(self._own)
        except Malformed as error:
            problem = "another authority has taken over while this node was away: it has to be let in again"
            raise DecentralError(f"{problem} ({error.detail})") from error
        self._certified.show(present)

    def _keep_certified(self) -> None:
        notice = self._admitted.notice
        if notice is not None and self._certified.credentials.issued < notice.of(self._own).renew:
            self._certified.hurry()


def check_own(notice: Notice, own: PeerId, journal: Journal) -> None:
    """Raises Revoked where the node itself is not admitted any more, and writes it down."""
    if own in notice.revoked:
        reason = notice.of(own).reason
        journal.record("revoked", reason=reason)
        raise Revoked(f"the identity of this node has been revoked{f' ({reason})' if reason else ''}")


def known_at_start(run: Path, folder: Path) -> Admitted:
    """What a node that starts has read before, or finds in the cluster's folder, whichever is newer.

    A notice that no authority has signed which the node trusts says nothing; it is told of that once it runs.
    """
    admitted, trusted = Admitted(), folder / AUTHORITIES
    for file in (folder / FILE, run / FILE) if trusted.exists() else ():
        with contextlib.suppress(Malformed):
            if data := _content(file):
                admitted.take(read_notice(data, trusted.read_bytes()))
    return admitted


def _content(file: Path) -> bytes:
    """As far as it is worth reading; empty where there is none."""
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except OSError:
        return b""


def _stamp(file: Path) -> Stamp:
    """Another one for every content, because files are replaced as a whole."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
