"""What a client remembers between tasks, on disk: one SQLite file, which several processes of it may use at once.

Every change is a transaction that reads what it changes, so that two processes lose nothing of each other's; readers
wait for nobody (write-ahead log). A file that is damaged, or is not ours, is named and left as it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from decentral.errors import UserError

FILE = "ledger.sqlite"
"""In the folder of a client's keys, and as private: it holds questions that were asked."""
APPLICATION, VERSION = 0x44436C67, 1
"""In the file's header: that it is a ledger (`DClg`), and of which form."""
WAITING = 10.0
"""Seconds to wait for other processes that write."""
RETRYING = 0.02

SCHEMA = (
    """CREATE TABLE reputations (peer TEXT PRIMARY KEY, good REAL NOT NULL, bad REAL NOT NULL, passed INTEGER NOT NULL,
    at REAL NOT NULL)""",
    """CREATE TABLE answers (number INTEGER PRIMARY KEY AUTOINCREMENT, part TEXT NOT NULL, model BLOB NOT NULL,
    digest BLOB NOT NULL, inputs BLOB NOT NULL, output_digest BLOB NOT NULL, output BLOB NOT NULL,
    UNIQUE (part, model, digest))""",
    """CREATE TABLE asked (answer INTEGER NOT NULL REFERENCES answers ON DELETE CASCADE, peer TEXT NOT NULL,
    PRIMARY KEY (answer, peer)) WITHOUT ROWID""",
    """CREATE TABLE tracks (peer TEXT PRIMARY KEY, a BLOB NOT NULL, b BLOB NOT NULL, ridge REAL NOT NULL,
    latency REAL NOT NULL, seen REAL NOT NULL)""",
)

WRONG = {
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is damaged, or no ledger at all",
    sqlite3.SQLITE_FULL: "cannot grow, and nothing of the last change was written",
    sqlite3.SQLITE_IOERR: "cannot be read or written",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "cannot be opened",
    sqlite3.SQLITE_BUSY: "is being written by another process, for too long",
}
"""By SQLite's primary result codes: what disks and other people do to a file. All else is a mistake of ours."""


class Ledger:
    """An open file; threads may share it."""

    def __init__(self, file: Path, connection: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """`reader` is for reading alone: whoever waits for a disk in `connection` keeps nobody from it."""
        self.file = file
        self._connection, self._reader = connection, reader
        self._lock, self._reading = threading.RLock(), threading.RLock()

    @classmethod
    def open(cls, file: Path, waiting: float = WAITING) -> Ledger:
        """Made if there is none, readable by its owner alone. Raises UserError, and changes nothing then.

        `waiting`: seconds to wait for others that write.
        """
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            mode = os.fstat(descriptor).st_mode
            os.close(descriptor)
        except OSError as error:
            raise UserError(f"{file}: cannot be opened for writing ({error.strerror})") from error
        if mode & 0o077:
            raise UserError(f"{file}: other users can read what this client has asked; `chmod 600` it")
        with _named(file):
            connection = _connected(file, waiting)
            try:
                _prepare(file, connection, waiting)
                reader = _connected(file, waiting)
            except BaseException:
                connection.close()
                raise
        return cls(file, connection, reader)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: what the block reads nobody else changes meanwhile, and all of it is written or nothing.

        On disk when the block is left. Raises UserError.
        """
        with self._lock, _named(self.file):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For one statement, which sees all that is on disk now; nobody who writes is waited for. Raises UserError."""
        with self._reading, _named(self.file):
            yield self._reader

    def damaged(self, what: str) -> UserError:
        """An error about a row that no ledger holds."""
        return UserError(_message(self.file, WRONG[sqlite3.SQLITE_CORRUPT], what))

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._connection.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _connected(file: Path, waiting: float) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=waiting, isolation_level=None, check_same_thread=False)


def _prepare(file: Path, connection: sqlite3.Connection, waiting: float) -> None:
    """Raises UserError for a file that is not a sound ledger of this version, before anything is written to it."""
    if _state(connection) == (0, 0, 0):
        connection.execute("BEGIN IMMEDIATE")  # released by closing
        if _state(connection) == (0, 0, 0):  # nobody else was faster
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    application, version, _ = _state(connection)
    if application != APPLICATION:
        raise UserError(f"{file}: is a database of another program; give this client's folder another name")
    if version != VERSION:
        raise UserError(f"{file}: is a ledger of version {version}, and this decentral knows version {VERSION}")
    if (found := connection.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
        raise UserError(_message(file, WRONG[sqlite3.SQLITE_CORRUPT], " ".join(str(found[0]).split())))
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    _log_ahead(connection, waiting)


def _state(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Application and version in the header, and how many tables there are: three zeros for a new file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return application, version, tables


def _log_ahead(connection: sqlite3.Connection, waiting: float) -> None:
    """Where the file system has no shared memory the journal stays a file beside: slower, and as safe.

    SQLite does not wait by itself for others when the journal's mode changes.
    """
    ends = time.monotonic() + waiting
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
            time.sleep(RETRYING)
        else:
            return


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """SQLite's errors as UserErrors that name the file; mistakes in our own statements stay what they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if (problem := WRONG.get(_code(error))) is None:
            raise
        raise UserError(_message(file, problem, str(error))) from error


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 where Python raised the error by itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _message(file: Path, problem: str, detail: str) -> str:
    damage = problem.startswith("is damaged")
    advice = "; nothing was changed: restore it, or move it away to begin with no memory of anybody" if damage else ""
    return f"{file}: {problem} ({detail}){advice}"
