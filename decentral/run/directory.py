"""One folder per run, laid out the same in every world.

    recipe.yaml  run.json  summary.json  metrics.csv  events.jsonl  report.html  trust.toml
    checkpoints/peer-0.safetensors ...     nodes/<name>/{events.jsonl, log.txt, keys ...}     authority/

A launcher holds an advisory lock on it, which the operating system releases however the launcher ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from decentral.errors import RunDirectoryError
from decentral.files import write_atomic
from decentral.run import journal
from decentral.run.recipe import Recipe

RUNS = Path("runs")
LOCK = ".lock"


class RunDirectory:
    """The files of one run. `create` and `resume` hold the lock until `close` (or use `with`); `open` only reads."""

    def __init__(self, path: Path, recipe: Recipe, world: str, lock: int | None = None):
        self.path, self.recipe, self.world = path, recipe, world
        self._lock = lock

    @classmethod
    def create(cls, path: Path | str | None, recipe: Recipe, world: str) -> Self:
        """A new run in an empty or new folder; None: runs/<recipe>-<n>.

        Raises RunDirectoryError if the folder holds anything, is in use or cannot be written; nothing is overwritten.
        """
        folder = Path(path) if path is not None else next_folder(recipe.name)
        check_empty(folder)
        with _refusing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
            try:
                check_empty(folder)  # again: another launcher may have been faster
                _lay_out(folder, recipe, world)
            except BaseException:
                os.close(lock)
                raise
        return cls(folder, recipe, world, lock)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """A run that was made before, to read. Raises RunDirectoryError if there is none."""
        folder = Path(path)
        with _refusing(folder):
            try:
                about = json.loads((folder / "run.json").read_bytes())
                world = str(about["world"])
            except (FileNotFoundError, NotADirectoryError):
                raise RunDirectoryError(f"{folder}: holds no run (there is no run.json)") from None
            except (ValueError, KeyError, TypeError) as error:
                raise RunDirectoryError(f"{folder / 'run.json'}: damaged") from error
            return cls(folder, Recipe.from_run(folder), world)

    @classmethod
    def resume(cls, path: Path | str, recipe: Recipe) -> Self:
        """An interrupted run, to go on with. Raises RunDirectoryError if its recipe was another or it is running."""
        run = cls.open(path)
        if differing := run.recipe.differences(recipe):
            raise RunDirectoryError(
                f"{run.path}: this run has another recipe; these keys differ: {', '.join(differing)}"
            )
        with _refusing(run.path):
            return cls(run.path, recipe, run.world, _locked(run.path))

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def in_use(self) -> bool:
        """Whether a launcher, this one or another, holds the run."""
        if self._lock is not None:
            return True
        try:
            os.close(_locked(self.path))
        except RunDirectoryError:
            return True
        return False

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def events_file(self) -> Path:
        return self.path / journal.FILE

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def cluster_file(self) -> Path:
        """Who takes part and where, for the nodes."""
        return self.path / "cluster.json"

    @property
    def trust_file(self) -> Path:
        """What a client of a standing cluster pins."""
        return self.path / "trust.toml"

    @property
    def launcher_journal(self) -> Path:
        return self.journal_file("launcher")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    @property
    def authority(self) -> Path:
        """Folder of the cluster authority's keys; whoever writes there makes it, for its owner alone (0700)."""
        return self.path / "authority"

    def node(self, name: str) -> Path:
        """The folder of one node, made on first use for its owner alone: it holds keys."""
        folder = self.nodes / name
        with _refusing(self.path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def journal_file(self, name: str) -> Path:
        return self.nodes / name / journal.FILE

    def log_file(self, name: str) -> Path:
        return self.nodes / name / "log.txt"

    def checkpoint_file(self, name: str) -> Path:
        return self.checkpoints / f"{name}.safetensors"

    def write(self, file: Path, data: bytes) -> None:
        """Writes one of the run's files atomically. Raises RunDirectoryError where the disk does not take it."""
        with _refusing(self.path):
            write_atomic(file, data)


def peer_name(index: int) -> str:
    """What the peer of that index in the plan is called."""
    return f"peer-{index}"


def next_folder(name: str, runs: Path = RUNS) -> Path:
    """runs/<name>-<n>, after the newest one of that name."""
    pattern = re.compile(rf"{re.escape(name)}-([0-9]{{1,9}})")
    with _refusing(runs):
        found = [pattern.fullmatch(folder.name) for folder in runs.iterdir()] if runs.is_dir() else []
    newest = max((int(match[1]) for match in found if match), default=0)
    return runs / f"{name}-{newest + 1}"


def check_empty(folder: Path) -> None:
    """Raises RunDirectoryError unless a new run can be made there: a folder without files, or none yet."""
    with _refusing(folder):
        if folder.exists() and not folder.is_dir():
            raise RunDirectoryError(f"{folder}: is a file, not a folder")
        held = {entry.name for entry in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    if {"run.json", "recipe.yaml"} & held:
        raise RunDirectoryError(f"{folder}: already holds a run; choose another folder, or go on with it by --resume")
    if held:
        raise RunDirectoryError(f"{folder}: is not empty ({', '.join(sorted(held)[:3])}); choose another folder")


def _lay_out(folder: Path, recipe: Recipe, world: str) -> None:
    """The first files of a run, or none of them."""
    about = {
        "world": world,
        "recipe": recipe.name,
        "hash": recipe.hash,
        "decentral": importlib.metadata.version("decentral"),
    }
    try:
        for name in ("nodes", "checkpoints"):
            (folder / name).mkdir()
        write_atomic(folder / "recipe.yaml", recipe.to_yaml().encode())
        write_atomic(folder / "run.json", json.dumps(about, indent=2).encode() + b"\n")
    except BaseException:
        for name in ("nodes", "checkpoints"):
            with contextlib.suppress(OSError):
                (folder / name).rmdir()
        (folder / "recipe.yaml").unlink(missing_ok=True)
        raise


def _locked(folder: Path) -> int:
    """An open file whose lock is this process's until it is closed or the process ends; not inherited by children."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunDirectoryError(f"{folder}: another launcher is using this run directory") from None
    return descriptor


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turns what the operating system says about a folder into one paragraph for its owner."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{folder}: cannot be used: {error.strerror or error}") from error
