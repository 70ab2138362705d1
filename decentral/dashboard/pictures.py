"""The pictures that lie in a cluster's folder, such as grids that `decentral generate` has drawn."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decentral.dashboard.sound import clipped
from decentral.files import open_plain

FOLDERS = (".", "images", "samples")
"""Of a cluster's folder, where pictures are looked for."""
NEWEST = 8
LOOKED_AT = 2000
MOST_BYTES = 8 << 20
MOST_SIDE = 16384
"""Pixels."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = 24
"""Bytes up to the end of width and height."""


class Pictures:
    """PNG files alone; a file has a name of its own as it is now, and another one when it is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}

    def look(self) -> list[dict[str, Any]]:
        """The newest first: name, file, width, height, when it came."""
        found = sorted(self._found(), key=lambda each: each[1].st_mtime_ns, reverse=True)
        files: dict[str, Path] = {}
        told: list[dict[str, Any]] = []
        for file, about in found:
            if len(told) == NEWEST:
                break
            size = _size(_read(file, HEADER))
            if size is None:
                continue
            name = hashlib.sha256(f"{file}\0{about.st_mtime_ns}\0{about.st_size}".encode()).hexdigest()[:32]
            files[name] = file
            width, height = size
            shown = clipped(str(file.relative_to(self._folder)))
            told.append({"name": name, "file": shown, "width": width, "height": height, "at": int(about.st_mtime)})
        self._files = files
        return told

    def read(self, name: str) -> bytes | None:
        """The bytes of a picture that `look` has named."""
        file = self._files.get(name)
        data = None if file is None else _read(file, MOST_BYTES)
        return data if data is not None and _size(data) is not None else None

    def _found(self) -> Iterator[tuple[Path, os.stat_result]]:
        for name in FOLDERS:
            folder = self._folder / name
            if not folder.is_dir() or folder.is_symlink():
                continue
            for _, file in zip(range(LOOKED_AT), folder.iterdir(), strict=False):
                if file.suffix.lower() == ".png" and not file.name.startswith("."):
                    about = file.lstat()
                    if stat.S_ISREG(about.st_mode) and HEADER <= about.st_size <= MOST_BYTES:
                        yield file, about


def _read(file: Path, most: int) -> bytes | None:
    """The beginning of a file; of what is none by now, a link or a pipe, nothing."""
    try:
        with open_plain(file) as opened:
            return opened.read(most)
    except OSError:
        return None


def _size(data: bytes | None) -> tuple[int, int] | None:
    """Width and height as a PNG's first chunk has them; None: it is no PNG."""
    if data is None or len(data) < HEADER or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return (width, height) if 0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE else None
