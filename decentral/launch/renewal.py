"""A node's certificate is renewed while the node runs, so that a cluster may stand for longer than one lasts.

At about two thirds of its life, or when it is told to hurry, a node asks the authority for another one, and asks again,
ever more patiently, while nobody answers. What it gets is written to its folder and shown from then on; who it is does
not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from decentral.errors import Malformed, RunDirectoryError, TransportError
from decentral.files import Vault
from decentral.run.journal import Journal
from decentral.wire.certificate import Credentials
from decentral.wire.enrolment import Show, renew
from decentral.wire.identity import Identity

_LOG = logging.getLogger(__name__)

DUE = (0.6, 2 / 3)
"""Share of a certificate's life after which it is renewed, drawn between these: not all peers ask at once."""
URGENT = 5 / 6
"""Share of its life after which a certificate that could not be renewed is worth a warning."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 3600.0
"""Seconds between attempts, doubled each time, and never more than a tenth of the time that is left."""
DEADLINE = 30.0
"""Seconds for one attempt."""


class Rotating(Protocol):
    """What shows the certificate: the node's transport."""

    def rotate(self, credentials: Credentials) -> None: ...


class Renewal:
    """Keeps one node certified. `authority` gives the address to ask, and is asked for it at every attempt."""

    def __init__(
        self,
        transport: Rotating,
        identity: Identity,
        credentials: Credentials,
        *,
        folder: Path,
        authority: Callable[[], str],
        journal: Journal,
        show: Show | None = None,
        vault: Vault | None = None,
    ) -> None:
        self.credentials = credentials
        self._transport, self._identity, self._folder = transport, identity, folder
        self._authority, self._journal, self._show, self._vault = authority, journal, show, vault
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Renews now, whatever is left."""
        self._hurried.set()

    def show(self, credentials: Credentials) -> None:
        """Keeps these, and shows them from now on."""
        credentials.save(self._folder, self._vault)
        self._transport.rotate(credentials)
        self.credentials = credentials

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Renewal]:
        """Renews for as long as the body runs."""
        self._journal.record("certified", left=self.credentials.expires - time.time())
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._run())
            try:
                yield self
            finally:
                renewing.cancel()

    async def _run(self) -> None:
        """One certificate after the other, until one expires because the authority never answered."""
        while time.time() < self.credentials.expires:
            share = random.uniform(*DUE)  # noqa: S311
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(_moment(self.credentials, share) - time.time(), 0.0)):
                    await self._hurried.wait()
            await self._renew()
        self._journal.record("expired")
        _LOG.warning("this node's certificate has expired: others refuse it; start it again through its launcher")

    async def _renew(self) -> None:
        """Asks until the authority grants another certificate or the present one has expired."""
        urgent, pause = _moment(self.credentials, URGENT), FIRST_PAUSE
        while (left := self.credentials.expires - time.time()) > 0.0:
            try:
                address = self._authority()
                fresh = await renew(
                    address, self.credentials, self._identity, show=self._show, deadline=min(DEADLINE, left)
                )
            except (TransportError, Malformed, RunDirectoryError) as error:
                left = max(self.credentials.expires - time.time(), 0.0)
                self._journal.record("unrenewed", problem=str(error), left=left)
                if time.time() >= urgent:
                    urgent = math.inf  # said once
                    _LOG.warning("this node's certificate expires in %.0f s and could not be renewed: %s", left, error)
                await asyncio.sleep(min(pause, LONGEST_PAUSE, left / 10 + 0.01) * random.uniform(0.5, 1.0))  # noqa: S311
                pause *= 2
            else:
                self.show(fresh)
                self._hurried.clear()
                self._journal.record("renewed", left=fresh.expires - time.time())
                return


def _moment(credentials: Credentials, share: float) -> float:
    """When (Unix seconds) a certificate has lived that share of its life."""
    return credentials.issued + share * (credentials.expires - credentials.issued)
