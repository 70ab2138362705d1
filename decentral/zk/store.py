"""What takes long to make and is the same for the same content: compiled circuits, keys, and SRS files.

A folder's name is the digest of everything that its content depends on. It is made under a lock, by one process while
the others wait, and appears whole; anything that ended in between is swept away by the next who holds the lock. The
store can be deleted at any time: what is in it can be made again, except that a local test SRS is another then.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from decentral import canonical, lock
from decentral.errors import Malformed, Unproven, UserError
from decentral.files import replacing_folder, write_atomic
from decentral.zk.srs import SRS, local_srs, open_srs
from decentral.zk.worker import FULL, DiskFull, Limits

PLACE = "DECENTRAL_ZK"
"""Environment variable with the store's folder."""
MANIFEST = "manifest.json"
SMALL = 1 << 24
"""Bytes up to which a file's digest is compared when it is used; of larger ones the size."""


def store_root(root: Path | str | None = None) -> Path:
    """The folder given, else $DECENTRAL_ZK, else ~/.cache/decentral/zk."""
    return Path(root or os.environ.get(PLACE) or "~/.cache/decentral/zk").expanduser()


def key_of(content: Mapping[str, Any]) -> str:
    """The name of what depends on this and on nothing else."""
    return hashlib.sha256(b"decentral zk store v1\0" + canonical.encode(dict(content))).hexdigest()


class Store:
    """A folder that processes of one machine share. Writing raises UserError that names it where it is full."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = store_root(root)

    def path(self, key: str) -> Path:
        return self.root / "circuits" / key

    def has(self, key: str) -> bool:
        """Whether it is there, whole as far as its manifest tells."""
        return _whole(self.path(key))

    async def folder(self, key: str, make: Callable[[Path], Awaitable[None]], seconds: float = 3600) -> Path:
        """The folder of that name, made by `make` in an empty one if need be.

        `seconds`: how long to wait for another who makes it. Raises Unproven after that, UserError where the disk is
        full or cannot be written, and what `make` raises; then there is no folder.
        """
        place = self.path(key)
        async with self._holding(place, seconds):
            if not await asyncio.to_thread(_whole, place):
                async with _replacing(place) as temporary:
                    await make(temporary)
                    await asyncio.to_thread(_seal, temporary)
        return place

    async def local_srs(self, logrows: int, limits: Limits | None = None, seconds: float = 3600) -> SRS:
        """This machine's local test SRS, made on first use."""
        place = self.root / "srs" / f"local-test-{logrows}.srs"
        async with self._holding(place, seconds):
            return open_srs(place, local=True) if place.exists() else await local_srs(place, logrows, limits)

    def srs(self, digest: str, *, local: bool = False) -> SRS:
        """The one of this digest. Raises UserError if it is not here."""
        for file in sorted((self.root / "srs").glob("*.srs")):
            try:
                return open_srs(file, digest=digest, local=local)
            except UserError:
                continue
        raise UserError(
            f"{self.root / 'srs'}: holds no SRS with digest {digest[:16]}...; name its file (--srs FILE)"
            + ("" if local else ", or allow a local test SRS if it is one")
        )

    @asynccontextmanager
    async def _holding(self, place: Path, seconds: float) -> AsyncIterator[None]:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            held = await _taken(place.with_name(f"{place.name}.lock"), seconds)
            try:
                await asyncio.to_thread(_sweep, place)
                yield
            finally:
                os.close(held)
        except DiskFull as error:
            raise self._full(error) from error
        except OSError as error:
            if error.errno in FULL:
                raise self._full(error) from error
            raise UserError(f"{self.root}: the store of circuits cannot be written ({error})") from error

    def _full(self, error: Exception) -> UserError:
        return UserError(
            f"{self.root}: the disk of this store of circuits is full ({error}); make room (any folder in "
            f"{self.root / 'circuits'} may be deleted), or name another place in ${PLACE}"
        )


async def _taken(path: Path, seconds: float) -> int:
    try:
        return await lock.taken(path, seconds)
    except TimeoutError:
        raise Unproven(f"{path}: another process was at this for {seconds:g} s; wait for it, or end it") from None


@asynccontextmanager
async def _replacing(place: Path) -> AsyncIterator[Path]:
    """`replacing_folder`, whose end waits for the disk without stopping the event loop."""
    manager = replacing_folder(place)
    temporary = manager.__enter__()
    try:
        yield temporary
    except BaseException as error:
        manager.__exit__(type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(manager.__exit__, None, None, None)


def _sweep(place: Path) -> None:
    """What one that was killed has left; who holds the lock is the only one at work."""
    for left in [*place.parent.glob(f".{place.name}.*.tmp"), *place.parent.glob(f".{place.name}.*.old")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    write_atomic(folder / MANIFEST, canonical.encode({path.name: _described(path) for path in files}))


def _whole(folder: Path) -> bool:
    try:
        manifest = canonical.decode((folder / MANIFEST).read_bytes())
        return all(_described(folder / name) == said for name, said in manifest.items())
    except (OSError, Malformed, AttributeError):
        return False


def _described(path: Path) -> list[Any]:
    size = path.stat().st_size
    return [size, hashlib.sha256(path.read_bytes()).hexdigest() if size <= SMALL else None]
