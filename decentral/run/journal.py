"""What happened, one JSON object a line: each peer writes its own journal, a run's are merged in order of time.

A line is one write to the file, so that a process that is killed loses no finished line; the torn end that it may
leave is not read, and cut when the journal is opened again.
"""

from __future__ import annotations

import heapq
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, cast

from decentral.errors import RunDirectoryError
from decentral.files import write_atomic

Event = Mapping[str, Any]
"""`t` in seconds since the start of the run, `peer` (an index, None: the launcher), `event`, and what belongs to it."""

Observer = Callable[[Event], None]
"""Somebody who is told of every event, such as the progress on the terminal."""

NODES, FILE = "nodes", "events.jsonl"
"""A run's folder of its nodes' folders, and the journal in each of them and of the run."""
GATHERED = 64
"""Lines that a simulated peer's journal holds at most before it writes them."""
LAUNCHER = -1
"""Where the launcher's events stand among those of one instant: before the peers'."""


class Journal:
    """Appends to one peer's journal; `clock_now` gives seconds since the start of the run."""

    def __init__(
        self, path: Path, peer: int | None, clock_now: Callable[[], float], observe: Observer = lambda event: None
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._peer, self._now, self._observe = peer, clock_now, observe
        self._open(path)

    def _open(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        whole = _whole(path.read_bytes())
        os.ftruncate(self._file.fileno(), len(whole))

    def record(self, event: str, **fields: object) -> None:
        """One line. Numbers that are not finite, which JSON does not have, become null."""
        line = _finite({"t": round(self._now(), 6), "peer": self._peer, "event": event, **fields})
        self._write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        self._observe(line)

    def _write(self, line: bytes) -> None:
        self._file.write(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GatheredJournal(Journal):
    """Of a simulated peer: no file stays open, since there may be more peers than a process may open files.

    Lines are written when a round ends, so a process that is killed loses no finished round.
    """

    def _open(self, path: Path) -> None:
        self._path = path
        self._gathered: list[bytes] = []
        if path.exists():
            super()._open(path)
            self._file.close()

    def record(self, event: str, **fields: object) -> None:
        super().record(event, **fields)
        if event == "round" or len(self._gathered) >= GATHERED:
            self.flush()

    def _write(self, line: bytes) -> None:
        self._gathered.append(line)

    def flush(self) -> None:
        """Appends what was gathered, as one write."""
        if self._gathered:
            with self._path.open("ab", buffering=0) as file:
                file.write(b"".join(self._gathered))
            self._gathered = []

    def close(self) -> None:
        self.flush()


def read(path: Path) -> list[Event]:
    """The events of one journal, without a torn end. Raises RunDirectoryError naming a line that is damaged."""
    return [_parsed(line, path, number) for number, line in enumerate(_lines(path), start=1)]


def rewind(path: Path, round: int) -> None:
    """Cuts a journal after the end of `round` (0: cuts all of it), so that a resumed run writes on from there.

    Raises RunDirectoryError if the journal never came to the end of that round.
    """
    kept, end = 0, 0
    for number, line in enumerate(_lines(path), start=1):
        end += len(line) + 1
        event = _parsed(line, path, number)
        if event["event"] == "round" and event["round"] == round:
            kept = end
    if not kept and round:
        raise RunDirectoryError(f"{path}: round {round} does not end in this journal")
    with path.open("r+b") as file:
        file.truncate(kept)
        os.fsync(file.fileno())


def merge(directory: os.PathLike[str]) -> list[Event]:
    """Writes DIRECTORY/events.jsonl from the journals of DIRECTORY/nodes, by (t, peer, line); returns its events.

    Where a peer's clock went back, which a restart can do, its lines still keep their order.
    """
    merged = list(heapq.merge(*(_keyed(path) for path in journals(Path(directory))), key=lambda item: item[0]))
    write_atomic(Path(directory) / FILE, b"".join(line + b"\n" for _, line, _ in merged))
    return [event for _, _, event in merged]


def journals(directory: Path) -> list[Path]:
    """The journals of a run directory, by the name of their node."""
    return sorted((directory / NODES).glob(f"*/{FILE}"))


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line of a journal lies, in bytes and without its end, and what it says."""

    path: Path
    offset: int
    size: int
    event: Event


class Tail:
    """Follows all journals of a run directory while they grow; journals may still appear."""

    def __init__(self, directory: os.PathLike[str], node: str | None = None):
        """`node`: whose journal to follow alone."""
        self._directory, self._node = Path(directory), node
        self._read: dict[Path, int] = {}

    def poll(self) -> list[Event]:
        """The events since the last call, by (t, peer); half-written lines wait for the next call."""
        return [line.event for line in self.lines()]

    def lines(self) -> list[Line]:
        """The same, and where they lie."""
        fresh: list[Line] = []
        for path in self._journals():
            offset = self._read.get(path, 0)
            if path.stat().st_size == offset:  # as most polls find it: to look is ten times cheaper than to open
                continue
            with path.open("rb") as file:
                offset = min(offset, os.fstat(file.fileno()).st_size)  # it may have been rewound
                file.seek(offset)
                whole = _whole(file.read())
            self._read[path] = offset + len(whole)
            for line in whole.splitlines():
                fresh.append(Line(path, offset, len(line), _parsed(line, path, None)))
                offset += len(line) + 1
        return sorted(fresh, key=lambda line: _moment(line.event))

    def _journals(self) -> list[Path]:
        if self._node is None:
            return journals(self._directory)
        path = self._directory / NODES / self._node / FILE
        return [path] if path.exists() else []


def _keyed(path: Path) -> Iterator[tuple[tuple[float, int, int], bytes, Event]]:
    latest = -math.inf
    for number, line in enumerate(_lines(path), start=1):
        event = _parsed(line, path, number)
        at, peer = _moment(event)
        latest = max(latest, at)
        yield (latest, peer, number), line, event


def _moment(event: Event) -> tuple[float, int]:
    return event["t"], LAUNCHER if event["peer"] is None else event["peer"]


def _lines(path: Path) -> list[bytes]:
    return _whole(path.read_bytes()).splitlines() if path.exists() else []


def _whole(data: bytes) -> bytes:
    """Up to the end of the last line that was written to its end."""
    return data[: data.rfind(b"\n") + 1]


def _parsed(line: bytes, path: Path, number: int | None) -> Event:
    try:
        event = json.loads(line, parse_constant=_no_number)
        sound = (
            isinstance(event, dict)
            and type(event["t"]) in (int, float)
            and type(event["peer"]) in (int, type(None))
            and isinstance(event["event"], str)
        )
    except (ValueError, KeyError, RecursionError):
        sound = False
    if not sound:
        where = f"{path}:{number}" if number else str(path)
        raise RunDirectoryError(f"{where}: a damaged line in the journal")
    return cast(Event, event)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(fields: Mapping[str, object]) -> dict[str, Any]:
    return {str(key): _finite_value(value) for key, value in fields.items()}


def _finite_value(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _finite(value)
    return [_finite_value(item) for item in value] if isinstance(value, list | tuple) else value
