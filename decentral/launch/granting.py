"""The authority of nodes on machines of their own, in a process of its own: it renews their certificates.

They were certified before they started, and so it lets nobody in who has no certificate yet, unless somebody has made a
join token with its folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from decentral.files import write_atomic
from decentral.run.directory import AUTHORITY, refusing
from decentral.wire.addresses import split_address
from decentral.wire.authority import TOKENS, Authority
from decentral.wire.register import VOICE


def entrust(source: Path, path: Path) -> None:
    """Copies the authority's key from where it is mounted into a run directory, for its owner alone.

    Join tokens that are known there stay known. Raises UserError.
    """
    with refusing(source):
        key = (source / VOICE).read_bytes()
    folder = path / AUTHORITY
    with refusing(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / TOKENS).exists():
            write_atomic(folder / TOKENS, b"[]", private=True)
        write_atomic(folder / VOICE, key, private=True)


async def grant_at(path: Path, address: str, told: Callable[[str], None]) -> None:
    """Serves at `host:port` until it is cancelled; `told` where, once it does. Raises UserError."""
    split_address(address, "--listen")
    authority = await asyncio.to_thread(Authority.load, path / AUTHORITY)
    async with authority.serve(address) as bound:
        told(bound)
        await asyncio.Event().wait()
