"""One folder per cluster, laid out the same in every world, whether its peers train or serve.

    recipe.yaml  run.json  cluster.json  trust.toml     nodes/<name>/{events.jsonl, log.txt, keys ...}     authority/
    of peers that train:  summary.json  metrics.csv  events.jsonl  report.html     checkpoints/peer-0.safetensors ...
    of peers that serve:  stages/{network.json, stage-0.safetensors ...}     training/, if the model was trained for it
                          zk/{circuits.json, references.json}, if they prove their answers
                          attestation/{manifest.json, simulated-processor ...}, if they show evidence of their machines

A launcher holds an advisory lock on it, which the operating system releases however the launcher ends.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Self

from decentral import lock
from decentral.errors import RunDirectoryError
from decentral.files import write_atomic
from decentral.run import journal
from decentral.run.experiment import FILE, E
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe

RUNS = Path("runs")
LOCK = ".lock"
RECIPE, ABOUT, LOG = FILE, "run.json", "log.txt"
AUTHORITY, CHECKPOINTS, STAGES = "authority", "checkpoints", "stages"
TRAINING, CIRCUITS, MACHINE = "training", "zk", "attestation"
TRAINS, SERVES = "training", "serving"
"""What the peers of a cluster do."""


class ClusterDirectory(Generic[E]):
    """The files of one cluster, by the kind of its recipe.

    `create`, `resume` and `hold` take the lock until `close` (or use `with`); `open` only reads.
    """

    does: ClassVar[str]
    reads: ClassVar[type[Any]]
    """The type of its recipe."""
    folders: ClassVar[tuple[str, ...]]
    """Those that are made with it."""

    def __init__(self, path: Path, recipe: E, world: str, held: int | None = None):
        self.path, self.recipe, self.world = path, recipe, world
        self._held = held

    @classmethod
    def create(cls, path: Path | str | None, recipe: E, world: str) -> Self:
        """A new run in an empty or new folder; None: runs/<recipe>-<n>.

        Raises RunDirectoryError if the folder holds anything, is in use or cannot be written; nothing is overwritten.
        """
        folder = Path(path) if path is not None else next_folder(recipe.name)
        check_empty(folder)
        with refusing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held = _locked(folder)
            try:
                check_empty(folder)  # again: another launcher may have been faster
                _lay_out(folder, cls, recipe, world)
            except BaseException:
                os.close(held)
                raise
        return cls(folder, recipe, world, held)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """One that was made before, to read. Raises RunDirectoryError if there is none, or one of another kind."""
        folder = Path(path)
        with refusing(folder):
            world, does = _about(folder)
            if does != cls.does:
                raise RunDirectoryError(f"{folder}: is of peers in {does}, not in {cls.does}")
            return cls(folder, cls.reads.from_run(folder), world)

    @classmethod
    def resume(cls, path: Path | str, recipe: E) -> Self:
        """One to go on with. Raises RunDirectoryError if its recipe was another or it is running."""
        run = cls.open(path)
        if differing := run.recipe.differences(recipe):
            raise RunDirectoryError(
                f"{run.path}: this run has another recipe; these keys differ: {', '.join(differing)}"
            )
        return cls(run.path, recipe, run.world).hold()

    def hold(self) -> Self:
        """Takes the lock. Raises RunDirectoryError if another launcher has it."""
        with refusing(self.path):
            self._held = _locked(self.path)
        return self

    def close(self) -> None:
        """Releases the lock."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def in_use(self) -> bool:
        """Whether a launcher, this one or another, holds the run."""
        if self._held is not None:
            return True
        with refusing(self.path):
            return lock.is_held(self.path / LOCK)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def recipe_file(self) -> Path:
        return self.path / RECIPE

    @property
    def nodes(self) -> Path:
        return self.path / journal.NODES

    @property
    def authority(self) -> Path:
        """Folder of the cluster authority's keys; whoever writes there makes it, for its owner alone (0700)."""
        return self.path / AUTHORITY

    def node(self, name: str) -> Path:
        """The folder of one node, made on first use for its owner alone: it holds keys."""
        return self._private(self.nodes / name)

    @property
    def client(self) -> Path:
        """The folder of this machine's client of a standing cluster, made for its owner alone: it holds keys."""
        return self._private(self.path / "client")

    @property
    def attestation(self) -> Path:
        """What evidence of machines needs, made for its owner alone: a simulated processor has its keys there."""
        return self._private(self.path / MACHINE)

    def _private(self, folder: Path) -> Path:
        with refusing(self.path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @property
    def log_files(self) -> dict[str, Path]:
        """What the nodes wrote to their standard output and error, by the node's name."""
        return {file.parent.name: file for file in sorted(self.nodes.glob(f"*/{LOG}"))}

    def journal_file(self, name: str) -> Path:
        return self.nodes / name / journal.FILE

    def log_file(self, name: str) -> Path:
        return self.nodes / name / LOG

    def write(self, file: Path, data: bytes) -> None:
        """Writes one of the run's files atomically. Raises RunDirectoryError where the disk does not take it."""
        with refusing(self.path):
            write_atomic(file, data)


class RunDirectory(ClusterDirectory[Recipe]):
    """Of a run: peers that train."""

    does = TRAINS
    reads = Recipe
    folders = (journal.NODES, CHECKPOINTS)

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def events_file(self) -> Path:
        """Of all nodes, in order; there once the run has ended."""
        return self.path / journal.FILE

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS


class ServingDirectory(ClusterDirectory[ServingRecipe]):
    """Of a model that peers serve in stages."""

    does = SERVES
    reads = ServingRecipe
    folders = (journal.NODES, STAGES)

    @property
    def stages(self) -> Path:
        """The stages' parameters and the network that they are of, see `decentral.serving.stages.model`."""
        return self.path / STAGES

    @property
    def circuits(self) -> Path:
        """What proves the parts that peers compute, see `decentral.launch.proofs`; there if they are proved."""
        return self.path / CIRCUITS

    @property
    def training(self) -> Path:
        """The run from which the model came, where the recipe names another recipe to train it by."""
        return self.path / TRAINING

    def change(self, recipe: ServingRecipe) -> None:
        """To another recipe, while nothing has been prepared for the one it has."""
        with refusing(self.path):
            _describe(self.path, type(self), recipe, self.world)
        self.recipe = recipe


AnyDirectory = RunDirectory | ServingDirectory


def open_cluster(path: Path | str) -> AnyDirectory:
    """Of either kind, to read. Raises RunDirectoryError if there is none."""
    with refusing(Path(path)):
        _, does = _about(Path(path))
    return ServingDirectory.open(path) if does == SERVES else RunDirectory.open(path)


def _about(folder: Path) -> tuple[str, str]:
    """The world of a cluster, and what its peers do. Raises RunDirectoryError, and OSError."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        world, does = str(about["world"]), str(about.get("does", TRAINS))
    except (FileNotFoundError, NotADirectoryError):
        raise RunDirectoryError(f"{folder}: holds no run (there is no {ABOUT})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{folder / ABOUT}: damaged") from error
    return world, does


def peer_name(index: int) -> str:
    """What the peer of that index in the plan is called."""
    return f"peer-{index}"


def next_folder(name: str, runs: Path = RUNS) -> Path:
    """runs/<name>-<n>, after the newest one of that name."""
    pattern = re.compile(rf"{re.escape(name)}-([0-9]{{1,9}})")
    with refusing(runs):
        found = [pattern.fullmatch(folder.name) for folder in runs.iterdir()] if runs.is_dir() else []
    newest = max((int(match[1]) for match in found if match), default=0)
    return runs / f"{name}-{newest + 1}"


def check_empty(folder: Path) -> None:
    """Raises RunDirectoryError unless a new run can be made there: a folder without files, or none yet."""
    with refusing(folder):
        if folder.exists() and not folder.is_dir():
            raise RunDirectoryError(f"{folder}: is a file, not a folder")
        held = {entry.name for entry in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    if {ABOUT, RECIPE} & held:
        raise RunDirectoryError(f"{folder}: already holds a run; choose another folder, or go on with it by --resume")
    if held:
        raise RunDirectoryError(f"{folder}: is not empty ({', '.join(sorted(held)[:3])}); choose another folder")


def _lay_out(folder: Path, kind: type[ClusterDirectory[E]], recipe: E, world: str) -> None:
    """The first files of a cluster, or none of them."""
    try:
        for name in kind.folders:
            (folder / name).mkdir()
        _describe(folder, kind, recipe, world)
    except BaseException:
        for name in kind.folders:
            with contextlib.suppress(OSError):
                (folder / name).rmdir()
        (folder / RECIPE).unlink(missing_ok=True)
        raise


def _describe(folder: Path, kind: type[ClusterDirectory[E]], recipe: E, world: str) -> None:
    about = {
        "world": world,
        "does": kind.does,
        "recipe": recipe.name,
        "hash": recipe.hash,
        "decentral": importlib.metadata.version("decentral"),
    }
    write_atomic(folder / RECIPE, recipe.to_yaml().encode())
    write_atomic(folder / ABOUT, json.dumps(about, indent=2).encode() + b"\n")


def _locked(folder: Path) -> int:
    """See `lock.take`."""
    descriptor = lock.take(folder / LOCK)
    if descriptor is None:
        raise RunDirectoryError(f"{folder}: another launcher is using this run directory")
    return descriptor


@contextlib.contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Turns what the operating system says about a folder into one paragraph for its owner."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{folder}: cannot be used: {error.strerror or error}") from error
