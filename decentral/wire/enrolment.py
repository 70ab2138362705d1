"""How a node of a run directory gets its certificate: from the invitation that its launcher left in its folder."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from decentral.errors import Unreachable, UserError
from decentral.files import write_atomic
from decentral.wire.authority import Authority, JoinToken, Show, enrol
from decentral.wire.certificate import Credentials
from decentral.wire.identity import Identity, read_private

INVITATION = "invitation.json"
RENEW_BEFORE = 24 * 3600.0
"""Seconds before a certificate expires from which a starting node asks for another."""
PATIENCE, PAUSE = 60.0, 0.5
"""Seconds for which a node asks an authority that does not answer, on a busy machine for one, and between attempts."""


def invite(authority: Authority, address: str, folder: Path) -> None:
    """Leaves a join token for one enrolment, and the authority's address, with a node."""
    invitation = {"authority": address, "token": str(authority.token())}
    write_atomic(folder / INVITATION, json.dumps(invitation).encode(), private=True)


async def credentials_for(identity: Identity, folder: Path, show: Show | None = None) -> Credentials:
    """A node's certificate: the one it has, if it lasts, else a new one for its invitation.

    `show`: evidence of its machine, where the authority asks for that.

    Raises UserError where it has neither, and TransportError where the authority does not answer or refuses.
    """
    if (folder / "tls.pem").exists():
        credentials = Credentials.load(folder)
        needed = time.time() + (RENEW_BEFORE if (folder / INVITATION).exists() else 0.0)
        if credentials.expires > needed:
            return credentials
    if not (folder / INVITATION).exists():
        raise UserError(f"{folder}: neither a certificate nor an invitation; start this node through its launcher")
    invitation = json.loads(read_private(folder / INVITATION))
    credentials = await _enrol(invitation["authority"], JoinToken.parse(invitation["token"]), identity, show)
    credentials.save(folder)
    (folder / INVITATION).unlink()
    return credentials


async def _enrol(address: str, token: JoinToken, identity: Identity, show: Show | None) -> Credentials:
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return await enrol(address, token, identity, show=show)
        except Unreachable:
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(PAUSE)
