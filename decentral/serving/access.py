"""How a client of a standing cluster comes to its peers: from the folder of the cluster, or a copy of what it trusts.

The client has an identity and a certificate of its own, like every peer; it believes who the trust file names, and
nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from decentral import lock
from decentral.errors import Malformed, UserError
from decentral.trust.anchors import FILE, Anchor, Anchors
from decentral.wire.addresses import split_address
from decentral.wire.certificate import TLS, Credentials
from decentral.wire.enrolment import credentials_for
from decentral.wire.identity import IDENTITY, Identity
from decentral.wire.links import Links
from decentral.wire.notice import Admitted, Notice, Ruling

if TYPE_CHECKING:
    from decentral.models.stages import Stage

PIPELINE = "pipeline"
"""The folder of an ensemble of experts, in that of the cluster."""
CLIENT = "client"
"""The folder of this client's keys, in that of the cluster."""
LOCK, WAITING = ".lock", 180.0
"""The file there whose lock is held by who makes them, and seconds to wait for that: an authority may take 90 s."""
LOOK = 1.0
"""Seconds between looks at what a client trusts, and at its own certificate."""

_LOG = logging.getLogger(__name__)


class Closing(Protocol):
    """What is connected, and closed in the end."""

    async def close(self) -> None: ...


C = TypeVar("C", bound=Closing)


@dataclass(frozen=True, slots=True)
class Access:
    """Who the client is, and its connections to the peers that the trust file names."""

    identity: Identity
    links: Links
    anchors: Anchors

    def serving(self, kind: str) -> dict[int, list[Anchor]]:
        """The peers that serve parts called `kind-0`, `kind-1`, ..., by number: replicas in the order of the file."""
        found: dict[int, list[Anchor]] = {}
        gone = {each.id for each in self.anchors.revoked}
        for peer in self.anchors.peers:
            if peer.id in gone:
                continue
            name, _, number = peer.part.rpartition("-")
            if name == kind and number.isdecimal():
                found.setdefault(int(number), []).append(peer)
        return found


@asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Of several processes that come at once, one makes the keys and uses up the invitation. Raises UserError."""
    try:
        await asyncio.to_thread(folder.mkdir, mode=0o700, exist_ok=True)
        held = await lock.taken(folder / LOCK, WAITING)
    except TimeoutError:
        problem = f"another process has been at this client's keys for {WAITING:g} s; wait for it, or end it"
        raise UserError(f"{folder}: {problem}") from None
    except OSError as error:
        raise UserError(f"{folder}: is this client's own folder, and cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        os.close(held)


@asynccontextmanager
async def access(directory: Path, via: str | None = None) -> AsyncIterator[Access]:
    """`via`: a gateway (host:port) that leads to the nodes (`gateway.tunnel`); None: they are reached directly.

    The authority, if it has to be asked for a certificate, always is. Meanwhile the client keeps to what the trust file
    and its own certificate become: who is revoked there is called no more.

    Raises UserError where there is no cluster to ask, or no way in, and TransportError if the authority is gone.
    """
    if via is not None:
        split_address(via, "--via")
    anchors = Anchors.load(directory / FILE)
    folder = directory / CLIENT
    async with _alone(folder):
        identity = Identity.open(folder / IDENTITY)
        credentials = await credentials_for(identity, folder)
    try:
        credentials = _trusting(credentials, anchors)
    except Malformed as error:
        problem = f"this client's certificate is of another authority than {directory / FILE} names"
        raise UserError(f"{folder}: {problem}") from error
    admitted = Admitted(_notice(anchors, 1))
    links = Links(credentials, via, admitted)
    for peer in anchors.peers:
        links.introduce(peer.id, peer.address)
    following = asyncio.create_task(_follow(directory, links, credentials, admitted))
    try:
        yield Access(identity, links, anchors)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await links.close()


def _trusting(credentials: Credentials, anchors: Anchors) -> Credentials:
    """Whom the trust file names is believed, whatever came with the certificate. Raises Malformed."""
    trusting = replace(credentials, authority=anchors.authority)
    trusting.check(credentials.peer)
    return trusting


def _notice(anchors: Anchors, sequence: int) -> Notice:
    rulings = tuple(Ruling(each.id, revoked=max(each.since, 1)) for each in anchors.revoked)
    return Notice(sequence, 0, (), rulings)


async def _follow(directory: Path, links: Links, shown: Credentials, admitted: Admitted) -> None:
    trust, own = directory / FILE, directory / CLIENT / TLS
    seen, failed = list[tuple[int, int]](), 0
    while True:
        try:
            if (now := _stamps(trust, own)) != seen:
                anchors = Anchors.load(trust)
                credentials = _trusting(Credentials.load(own.parent), anchors)
                admitted.take(_notice(anchors, admitted.sequence + 1))
                if credentials != shown:
                    links.rotate(credentials)
                    shown = credentials
                links.enforce()
                seen = now
            failed = 0
        except Exception as error:  # noqa: BLE001  one that looks no more would never hear of a revocation
            failed += 1
            if failed == 2:  # of two files that belong together one may come later
                ours = not isinstance(error, UserError | Malformed | OSError)
                problem = "cannot be followed, so that who is revoked there from now on is still called"
                _LOG.warning("%s: %s (%s)", trust, problem, error, exc_info=error if ours else None)
        await asyncio.sleep(LOOK)


def _stamps(*files: Path) -> list[tuple[int, int]]:
    """Others where a file has been replaced."""
    return [(each.stat().st_ino, each.stat().st_mtime_ns) if each.exists() else (0, 0) for each in files]


def held_in(folder: Path, anchors: Anchors, given: Mapping[str, Stage] | None = None) -> dict[str, Stage]:
    """The stages that a client has, by part, each the one that is pinned. Blocking. Raises UserError."""
    from decentral.serving.stages.model import digest_of, load_stages  # the launcher reads this file without torch

    if given is None:
        found = load_stages(folder) if folder.is_dir() else {}
        given = {anchors.parts[place].name: stage for place, stage in found.items() if place < len(anchors.parts)}
    for part in anchors.parts:
        if part.name not in given and part.at == "client":
            raise UserError(f"{folder}: {part.name} is the client's own to compute, and is not there")
        if part.name in given and digest_of(given[part.name]) != part.digest:
            raise UserError(f"{folder}: {part.name} is not the one that is pinned")
    return dict(given)


class Connecting(Generic[C]):
    """`await` it for a client that you close, or use it with `async with`."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, C]]) -> None:
        self._connect = connect
        self._client: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._connect().__await__()

    async def __aenter__(self) -> C:
        self._client = await self
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._client is not None
        await self._client.close()
