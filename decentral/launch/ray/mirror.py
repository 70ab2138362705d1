"""What a node writes where it runs, copied into the run directory of the launcher while it is written.

A node's journal and log only grow: what follows an offset is what is new. Everything else is written in one step, so
that a file's size and time tell whether it is another one. Lines are told as they come, files at most every few
seconds: a checkpoint costs more to move than a short round to compute. When all is told, a journal's line is told after
the files that were there before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from decentral.errors import DecentralError
from decentral.files import open_plain, write_atomic
from decentral.launch.gathering import KEPT
from decentral.run.directory import CHECKPOINTS, LOG, RunDirectory
from decentral.run.journal import FILE, NODES
from decentral.serving.access import PIPELINE
from decentral.training.checkpoint import Checkpoints
from decentral.wire.enrolment import INVITATION

Stamp = tuple[int, int]
"""A file's size and the time of its last change, in nanoseconds."""
LARGEST = 64 << 20
"""Bytes of files that are told at once, unless a single one is larger."""
LONGEST = 1 << 20
"""Bytes of a journal or a log that are told at once."""
COPYING = 5.0
"""Seconds from one look at a node's files to the next: what of them a machine that dies takes with it."""
ALONE = frozenset({*KEPT, INVITATION, FILE, LOG})
"""In a node's folder what stays there, or grows."""


@dataclass(slots=True)
class Known:
    """How much of a node's files has been told: bytes of its journal and of its log, and the stamps of the others."""

    journal: int = 0
    log: int = 0
    stamps: dict[str, Stamp] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class News:
    """What is new in a node's folder; `files` by their name in the run directory.

    `life` is the one of the actor that tells, `code` the exit code of the node once it has ended and all is told.
    `more`: files that are to be told before the journal's next lines.
    """

    life: str = ""
    journal: bytes = b""
    log: bytes = b""
    files: Mapping[str, tuple[Stamp, bytes]] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    more: bool = False
    code: int | None = None

    @property
    def empty(self) -> bool:
        return not (self.journal or self.log or self.files or self.gone)


class Teller:
    """What a node's machine tells, and when. `now`: wall clock, in seconds.

    All machines look at their nodes' files at the same moments of the clock, so that what a launcher has got of
    different peers is of about the same round: from there a run goes on whose launcher has died.
    """

    def __init__(self, run: RunDirectory, name: str, life: str = "", now: Callable[[], float] = time.time) -> None:
        self._run, self._name, self._life, self._now = run, name, life, now
        self._copying, self._owing = 0.0, False

    def due(self, known: Known, *, ended: bool = False) -> bool:
        """Whether there may be news: the cheap question, since files that matter are told of in a journal."""
        told = ((self._run.journal_file(self._name), known.journal), (self._run.log_file(self._name), known.log))
        grown = any(path.exists() and path.stat().st_size > size for path, size in told)
        return ended or grown or (self._owing and not self._waits(self._now()))

    def news(self, known: Known, *, ended: bool = False) -> News:
        """What is not known, and is to be told now; `ended`: of a node that says no more, files too. Blocking."""
        now = self._now()
        if not ended and self._waits(now):
            self._owing = True
            return look(self._run, self._name, known, self._life, files=False)
        news = look(self._run, self._name, known, self._life)
        if not news.more:
            self._copying = (now // COPYING + 1) * COPYING
        self._owing = news.more
        return news

    def _waits(self, now: float) -> bool:
        """Whether files were told a moment ago; a clock that was put back is no reason to wait."""
        return 0 < self._copying - now <= COPYING


def look(run: RunDirectory, name: str, known: Known, life: str = "", *, files: bool = True) -> News:
    """What a node's machine has that is not `known`; lines alone, if no files are asked for. Blocking."""
    journal = _after(run.journal_file(name), known.journal)
    journal = journal[: journal.rfind(b"\n") + 1]
    log = _after(run.log_file(name), known.log)
    if not files:
        return News(life, journal, log)
    there = dict(_stamps(run, name))  # after the journal was read
    new: dict[str, tuple[Stamp, bytes]] = {}
    size = 0
    for file, stamp in sorted(there.items()):
        if known.stamps.get(file) == stamp:
            continue
        if new and size + stamp[0] > LARGEST:
            return News(life, b"", log, new, more=True)
        try:
            with open_plain(run.path / file) as opened:
                new[file] = (stamp, opened.read())
        except FileNotFoundError:
            continue  # it was pruned meanwhile
        size += stamp[0]
    gone = tuple(sorted(known.stamps.keys() - there.keys()))
    return News(life, journal, log, new, gone)


def take(run: RunDirectory, name: str, known: Known, news: News) -> None:
    """Writes down what a node's machine has told, and notes in `known` that it was. Blocking.

    Raises DecentralError for a file that is not the node's to write.
    """
    for file, (stamp, data) in news.files.items():
        path = run.path / _checked(file, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        known.stamps[file] = stamp
    for file in news.gone:
        if _checked(file, name).parts[0] == CHECKPOINTS:
            (run.path / file).unlink(missing_ok=True)
        known.stamps.pop(file, None)
    if any(file.startswith(f"{CHECKPOINTS}/") for file in news.files):
        Checkpoints(run.checkpoints, name).show_newest()
    for grows, text in ((run.log_file(name), news.log), (run.journal_file(name), news.journal)):
        if text:
            with grows.open("ab", buffering=0) as opened:
                opened.write(text)
    known.journal += len(news.journal)
    known.log += len(news.log)


def kept(run: RunDirectory, name: str) -> dict[str, bytes]:
    """What a node needs that goes on, by name: its journal, checkpoints and counter, and what it left. Blocking."""
    files = [found for found, _ in _stamps(run, name) if not found.startswith(f"{PIPELINE}/")]
    if run.journal_file(name).exists():
        files.append(f"{NODES}/{name}/{FILE}")
    return {file: (run.path / file).read_bytes() for file in files}


def _stamps(run: RunDirectory, name: str) -> Iterator[tuple[str, Stamp]]:
    """Plain files of a node that are written in one step, by their name in the run directory."""
    for top in (f"{CHECKPOINTS}/{name}", f"{NODES}/{name}", PIPELINE):
        for folder, folders, files in os.walk(run.path / top):
            folders[:] = [below for below in folders if not below.startswith(".")]
            for file in files:
                path = Path(folder, file)
                own = top.startswith(NODES) and path.parent == run.path / top
                if file.startswith(".") or path.is_symlink() or (own and file in ALONE):
                    continue
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue
                yield path.relative_to(run.path).as_posix(), (about.st_size, about.st_mtime_ns)


def _after(path: Path, offset: int) -> bytes:
    try:
        with open_plain(path) as file:
            file.seek(offset)
            return file.read(LONGEST)
    except FileNotFoundError:
        return b""


def _checked(file: str, name: str) -> PurePosixPath:
    """Raises DecentralError unless a node may write the file of that name."""
    path = PurePosixPath(file)
    below = [f"{CHECKPOINTS}/{name}", f"{NODES}/{name}", PIPELINE]
    strange = path.is_absolute() or any(part.startswith(".") for part in path.parts) or path.as_posix() != file
    own = path.parent == PurePosixPath(NODES, name) and path.name in ALONE
    if strange or own or not any(path.is_relative_to(top) and path != PurePosixPath(top) for top in below):
        raise DecentralError(f"{name}: its machine sent a file that is not its own: {file!r}")
    return path
