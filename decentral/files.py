"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol


class Vault(Protocol):
    """How a node keeps its private files. Paths are those that files would have if they were kept as they are."""

    def place(self, path: Path) -> Path:
        """Where the file really is."""

    def read(self, path: Path) -> bytes:
        """Raises UserError, which names the file."""

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """In one step, the owner's alone. Raises OSError."""

    def sound(self, path: Path) -> bool:
        """Whether the file is there as it was written, as far as one can tell who need not be able to read it."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what the block writes there becomes the content of `path` in one step.

    A reader, also after a power cut, sees the old bytes or the new ones: they are flushed, renamed (atomic within one
    file system only), and the folder is flushed, because the rename itself is data of the folder. Raises OSError, and
    leaves nothing behind then; also where `path` is a device or a folder, which a rename would take from everybody.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no ordinary file, and is not replaced by one", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; what the block writes there becomes the folder `path`.

    It is there whole or not at all. The one that was there before is moved aside first, so that between two renames
    there is none. Raises OSError, and leaves nothing behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            flush(written)
        replace_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(new: Path, path: Path) -> None:
    """Moves a folder that is whole and flushed to `path`, on the same disk. One that was there is gone then."""
    if path.exists():
        before = path.with_name(f".{path.name}.{secrets.token_hex(6)}.old")
        path.rename(before)
        new.rename(path)
        shutil.rmtree(before)
    else:
        new.rename(path)
    flush(path.parent)


def write_atomic(path: Path, data: bytes | memoryview, *, private: bool = False) -> None:
    """Replaces the content of `path`, see `replacing`. `private` files are the owner's alone (0600) from their first
    byte on.
    """
    with replacing(path) as temporary:
        # Created under a name nobody can guess and never through a link, so that no other file is written.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def open_plain(path: Path) -> BinaryIO:
    """An ordinary file to read, without following a link or waiting for who writes to a pipe. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no ordinary file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
