"""The lines of a cluster's journals, numbered from 1 in the order in which they were first seen.

Where they lie is remembered (24 bytes a line), not what they say: a run of millions of events is shown from its files.
"""

from __future__ import annotations

import os
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from decentral.run.journal import Observer, Tail

MOST = 1 << 18
"""Bytes that are read at once."""


class Lines:
    """Of all nodes and the launcher, or of one `node` alone, whose numbers are then the lines of its journal."""

    def __init__(self, directory: os.PathLike[str], node: str | None, take: Observer) -> None:
        """`take` is told of every event, once."""
        self._tail, self._take = Tail(directory, node), take
        self._paths: list[Path] = []
        self._numbers: dict[Path, int] = {}
        self._where = array("Q")

    def __len__(self) -> int:
        return len(self._where) // 3

    def poll(self) -> None:
        """Takes in what was written since the last call. Raises RunDirectoryError for a line that is damaged."""
        for line in self._tail.lines():
            if line.path not in self._numbers:
                self._numbers[line.path] = len(self._paths)
                self._paths.append(line.path)
            self._where.extend((self._numbers[line.path], line.offset, line.size))
            self._take(line.event)

    def after(self, number: int, most: int = MOST) -> list[tuple[int, bytes]]:
        """The lines after that of a number, with theirs: one at least if there is any, `most` bytes or little more."""
        found: list[tuple[int, bytes]] = []
        size = 0
        with ExitStack() as stack:
            files: dict[int, BinaryIO] = {}
            while number < len(self) and size < most:
                path, offset, length = self._where[3 * number : 3 * number + 3]
                if path not in files:
                    files[path] = stack.enter_context(self._paths[path].open("rb"))
                files[path].seek(offset)
                number, size = number + 1, size + length
                found.append((number, files[path].read(length)))
        return found
