"""Where datasets lie on disk: finding them, comparing them with what was published, fetching them when asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from decentral import lock
from decentral.errors import DatasetNotFound, UserError

LOCK, WAITING = ".download.lock", 6 * 3600.0
"""Held by who fetches something, and seconds to wait for another one who does."""
SHARED = 0o666
"""Less the umask: a folder of datasets may be that of several people."""


def data_root(root: Path | str | None = None) -> Path:
    """The folder that holds the datasets: the one given, else $DECENTRAL_DATA, else ~/.cache/decentral/data."""
    chosen = root or os.environ.get("DECENTRAL_DATA") or Path("~/.cache/decentral/data")
    return Path(chosen).expanduser()


class Fetch(Protocol):
    """Downloads and unpacks an archive under `root`; raises RuntimeError or OSError where it cannot."""

    def __call__(self, root: Path) -> object: ...


@dataclass(frozen=True)
class Archive:
    """The files of one published dataset. `md5` is by path under the root: it tells copies apart, not forgeries.

    `fetch` makes the call that downloads, so that the library that does it is imported only then.
    """

    name: str
    md5: Mapping[str, str]
    fetch: Callable[[], Fetch]

    def open(self, root: Path, verify: bool, download: bool) -> Path:
        """The root, with every file in place. Raises DatasetNotFound, or UserError where a checksum differs."""
        if self._missing(root) and download:
            self._download(root)
        missing = self._missing(root)
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DatasetNotFound(
                f"dataset {self.name!r}: {missing[0]}{others} not found under {root}. Set data.download: true to fetch "
                f"it, put its files there in the layout that torchvision reads, or let data.root or $DECENTRAL_DATA "
                f"name the folder that holds {Path(missing[0]).parts[0]}/."
            )
        if verify:
            self._verify(root)
        return root

    def _missing(self, root: Path) -> list[str]:
        return [file for file in self.md5 if not (root / file).is_file()]

    def _verify(self, root: Path) -> None:
        for file, expected in self.md5.items():
            with (root / file).open("rb") as opened:
                found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found != expected:
                raise UserError(
                    f"dataset {self.name!r}: {root / file} is not the published file (MD5 {found}, expected "
                    f"{expected}). If it is a copy that you trust, set data.verify: false; otherwise remove it and "
                    "set data.download: true."
                )

    def _download(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held = lock.taken_here(root / LOCK, WAITING, SHARED)  # peers of one machine ask at once: one fetches
            try:
                if self._missing(root):
                    self.fetch()(root)
            finally:
                os.close(held)
        except (RuntimeError, OSError) as error:
            raise DatasetNotFound(f"dataset {self.name!r} could not be downloaded to {root}: {error}") from error
