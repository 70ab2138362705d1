"""A recipe's dataset, on its way to machines that do not have it: as one stream in pieces, unpacked once on each.

Pieces are put where Ray keeps objects, so that a machine fetches them from any that has them already.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from decentral import lock
from decentral.data.archives import Archive, data_root
from decentral.errors import DecentralError
from decentral.files import replacing_folder
from decentral.run.recipe import Recipe

PIECE = 32 << 20
"""Bytes."""
ARCHIVES = {
    "cifar10": "decentral.data.cifar:CIFAR10",
    "cifar100": "decentral.data.cifar:CIFAR100",
    "fashion-mnist": "decentral.data.fashion_mnist:FASHION_MNIST",
}
"""Datasets whose files are known by name."""
FOLDER = "image-folder"
PARTS = ("train", "val")
"""Of a folder of images."""
UNPACKING = 1800.0
"""Seconds that a node waits for another one of its machine to unpack."""

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Freight(Generic[P]):
    """A stream's SHA-256 in hexadecimal, and its pieces, or what they were put as."""

    digest: str
    pieces: tuple[P, ...]


def files_of(recipe: Recipe) -> tuple[str, ...]:
    """What the recipe's dataset is made of, as paths under its root; none where it needs none, or nobody knows.

    Of a folder of images the folders alone.
    """
    name, options = recipe.data.name, recipe.data.options
    if name in ARCHIVES:
        module, _, attribute = ARCHIVES[name].partition(":")
        archive: Archive = getattr(importlib.import_module(module), attribute)
        return tuple(archive.md5)
    if name == FOLDER:
        return tuple(str(Path(str(options.get("folder", ""))) / part) for part in PARTS)
    return ()


def is_here(recipe: Recipe) -> bool:
    """Whether this machine has all of them."""
    root = data_root(recipe.data.root)
    return all((root / name).exists() for name in files_of(recipe))


def load(recipe: Recipe, put: Callable[[bytes], P]) -> Freight[P]:
    """The files of a dataset that this machine has, put piece by piece. Blocking. Raises OSError."""
    root = data_root(recipe.data.root)
    writer = _Pieces(put)
    with tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in files_of(recipe):
            for path in _plain(root / name):
                about = tarfile.TarInfo(path.relative_to(root).as_posix())
                with path.open("rb") as file:
                    about.size = os.fstat(file.fileno()).st_size
                    archive.addfile(about, file)
    return writer.freight()


def unload(digest: str, pieces: Iterable[bytes], folder: Path) -> Path:
    """The files of a freight, in a folder of its own under `folder`: those of an earlier node, or the pieces unpacked.

    Blocking. Raises DecentralError where the pieces are others than those that were put, and OSError.
    """
    path = folder / digest
    try:
        held = lock.taken_here(folder / f".{digest}.lock", UNPACKING)
    except TimeoutError as error:
        raise DecentralError(
            f"{path}: another node of this machine is unpacking it without an end ({error})"
        ) from error
    try:
        if not path.exists():
            with replacing_folder(path) as fresh:
                reader = _Stream(iter(pieces))
                with tarfile.open(fileobj=reader, mode="r|") as archive:
                    archive.extractall(fresh, filter="data")
                if reader.rest() != digest:
                    raise DecentralError(f"{path}: what came is not what was sent")
    finally:
        os.close(held)
    return path


def _plain(path: Path) -> Iterator[Path]:
    """A file, or all those in a folder, in order."""
    if path.is_dir():
        yield from sorted(found for found in path.rglob("*") if found.is_file())
    else:
        yield path


class _Pieces(io.RawIOBase, Generic[P]):
    """Takes a stream and puts it in pieces."""

    def __init__(self, put: Callable[[bytes], P]) -> None:
        self._put, self._digest = put, hashlib.sha256()
        self._gathered = bytearray()
        self._pieces: list[P] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # the tar writer hands over bytes alone
        self._digest.update(data)
        self._gathered += data
        while len(self._gathered) >= PIECE:
            self._pieces.append(self._put(bytes(self._gathered[:PIECE])))
            del self._gathered[:PIECE]
        return len(data)

    def freight(self) -> Freight[P]:
        if self._gathered:
            self._pieces.append(self._put(bytes(self._gathered)))
            self._gathered.clear()
        return Freight(self._digest.hexdigest(), tuple(self._pieces))


class _Stream(io.RawIOBase):
    """Reads pieces as one stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._digest = pieces, hashlib.sha256()
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer at the end of a piece; none at the end of all."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._digest.update(piece)
            self._left = memoryview(piece)
        read, self._left = self._left[:size], self._left[size:]
        return bytes(read)

    def rest(self) -> str:
        """Reads to the end; the digest of all of it."""
        for piece in self._pieces:
            self._digest.update(piece)
        return self._digest.hexdigest()
