"""The nodes' logs, line by line, to their end or on and on as they grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PAUSE = 0.1
"""Seconds between looks."""


def lines_of(files: Callable[[], Mapping[str, Path]], on: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """A node's name and a line that it wrote, file by file; then, while `on` says so, what is written meanwhile.

    `files`: by name, of which there may be more later. A line that is not whole waits for its end, and is told as it is
    when nothing more comes.
    """
    read: dict[str, int] = {}
    torn: dict[str, bytes] = {}
    while True:
        last = not on()
        for name, path in files().items():
            with path.open("rb") as file:
                file.seek(read.get(name, 0))
                came = file.read()
            read[name] = read.get(name, 0) + len(came)
            *whole, torn[name] = (torn.get(name, b"") + came).split(b"\n")
            for line in whole:
                yield name, line.decode(errors="replace")
        if last:
            break
        time.sleep(PAUSE)
    for name, line in torn.items():
        if line:
            yield name, line.decode(errors="replace")
