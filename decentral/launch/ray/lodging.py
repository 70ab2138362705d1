"""Where a node lives on its machine: a folder of its owner alone, gone with the node or swept up by the next one.

Beside those stands what several nodes of one machine share, by its content, and what stays for the next run.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from decentral import lock
from decentral.errors import UserError
from decentral.launch.cluster import LOCK


def house() -> Path:
    """This user's folder for nodes on this machine. Raises UserError where somebody else has put one there."""
    path = Path(tempfile.gettempdir()) / f"decentral-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise UserError(f"{path}: is not a folder of this user alone; remove it, or let $TMPDIR name another place")
    return path


def shared() -> Path:
    """The folder of what nodes share."""
    path = house() / "shared"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextlib.contextmanager
def room(name: str) -> Iterator[Path]:
    """A new folder for one node, for as long as the body runs.

    It holds keys: those of nodes that were killed, whose folders nobody holds, are removed first.
    """
    rooms = house() / "rooms"
    rooms.mkdir(mode=0o700, exist_ok=True)
    sweep(rooms)
    path = rooms / f"{name}-{secrets.token_hex(6)}"
    begun = path.with_name(f".{path.name}")
    begun.mkdir(mode=0o700)
    held = lock.take(begun / LOCK)
    assert held is not None, "nobody else knows its name"
    begun.rename(path)  # from here on others may find it, and it is held
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def sweep(rooms: Path) -> None:
    """Removes the folders that nobody holds; of those that are about to be made the names begin with a dot."""
    for path in rooms.iterdir():
        if not path.name.startswith(".") and (path / LOCK).exists() and not lock.is_held(path / LOCK):
            shutil.rmtree(path, ignore_errors=True)
