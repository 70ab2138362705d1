"""Which machine a replica runs on: asked when a session with it begins, and before it is told anything.

A replica whose machine does not count by the trust file is not asked at all. With one that does, the session is sealed:
what is said in it can be read inside that machine alone, whoever made the replica's certificate or stands in between.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from decentral.attestation.evidence import Evidence
from decentral.attestation.host.measuring import CODE
from decentral.attestation.manifest import Manifest, differences, own_manifest
from decentral.attestation.report import NotGenuine
from decentral.attestation.session.challenging import Seen, Subject
from decentral.attestation.session.showing import tls_key
from decentral.errors import Malformed, Refusal, Refused, Unreachable, UserError
from decentral.trust.anchors import Anchors
from decentral.trust.attested import judge
from decentral.trust.machines import Complaint, Machines
from decentral.wire.conversation import NONCE_BYTES
from decentral.wire.sessions import Session

MANIFEST = Path("attestation") / "manifest.json"
"""The files of the code that is pinned, in a cluster's folder: where a client has it, it can name what has changed."""
MOST_NAMES = 5
"""Files that are named."""
MOST_WORDS = 200
"""Characters of what a replica says instead, which a terminal may read."""


class Distrusted(Unreachable):
    """A replica whose machine does not count, and why: it was told nothing."""


class Attesting:
    """Challenges the replicas of one cluster. `folder`: the client's of it; `clock`: seconds since 1970."""

    def __init__(self, anchors: Anchors, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._anchors, self._folder, self._clock = anchors, folder, clock

    @classmethod
    def of(cls, anchors: Anchors, folder: Path) -> Self | None:
        """None where no machines are pinned."""
        return None if anchors.machines is None else cls(anchors, folder)

    @property
    def lasting(self) -> float:
        """Seconds for which a session may rest on one challenge."""
        return float(self._machines.seconds)

    @property
    def _machines(self) -> Machines:
        if self._anchors.machines is None:
            raise UserError("attestation: the trust file pins no machines")
        return self._anchors.machines

    async def meet(self, session: Session, deadline: float) -> Seen:
        """Challenges the replica, and seals the session. Raises Distrusted, Unreachable, Refused."""
        machines, nonce = self._machines, os.urandom(NONCE_BYTES)
        subject = self._subject(session)
        try:
            evidence = Evidence.parse(await session.challenge(nonce, deadline))
            seen = Seen(subject, nonce, tls_key(session.certificate), evidence)
        except NotGenuine as error:
            raise Distrusted(f"its machine does not count: {error}") from error
        except Malformed as error:
            raise Distrusted(f"its machine does not count: {error.detail}") from error
        except Refused as error:
            if error.reason is Refusal.BUSY:
                raise
            said = "".join(filter(str.isprintable, str(error)))[:MOST_WORDS]
            raise Distrusted(f"shows no evidence of its machine ({said})") from error
        judged = await asyncio.to_thread(judge, seen, machines, int(self._clock()))
        if judged.complaints:
            why = await asyncio.to_thread(self._explained, judged.complaints, seen)
            raise Distrusted(f"its machine does not count: {why}")
        try:
            channel = seen.sealed()
        except Malformed as error:
            raise Distrusted(f"its machine does not count: {error.detail}") from error
        await session.seal(channel.hello, channel, deadline)
        return seen

    def _subject(self, session: Session) -> Subject:
        served = {anchor.id: anchor.part for anchor in self._anchors.peers}
        part = next(part for part in self._anchors.parts if part.name == served[session.to])
        return Subject(session.to, part.name, bytes.fromhex(part.digest), self._anchors.epoch)

    def _explained(self, complaints: tuple[Complaint, ...], seen: Seen) -> str:
        """With the files in which its code differs from what is pinned, where both are known. Blocking."""
        words = []
        for each in complaints:
            about = self._changed(seen) if f"its {CODE} " in each.detail else ""
            words.append(f"{each} ({about})" if about else str(each))
        return "; ".join(words)

    def _changed(self, seen: Seen) -> str:
        measured = [event.digest for event in seen.evidence.log.events if event.name == CODE]
        try:
            found = Manifest.parse(seen.evidence.manifest)
        except NotGenuine:
            return ""
        wanted = self._pinned()
        if wanted is None or found.digest not in measured:
            return ""
        differing = differences(wanted, found)
        names = [*differing.changed, *differing.missing, *differing.added]
        if len(names) <= MOST_NAMES:
            return str(differing)
        return f"{', '.join(names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"

    def _pinned(self) -> Manifest | None:
        """The files of the code that the trust file names, from the folder, or from this installation if it is that."""
        digests = {reference.events.get(CODE) for reference in self._machines.references}
        for read in (self._kept, own_manifest):
            try:
                found = read()
            except (UserError, NotGenuine, OSError):
                continue
            if found.digest.hex() in digests:
                return found
        return None

    def _kept(self) -> Manifest:
        return Manifest.parse((self._folder / MANIFEST).read_bytes())
