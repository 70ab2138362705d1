"""A cluster that runs in the background: started, waited for and ended from another process.

`decentral up` and `down` are this at the command line, `LocalCluster` is it in Python.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from decentral.errors import DecentralError, UserError
from decentral.files import write_atomic
from decentral.launch.ray.options import RayOptions
from decentral.run.directory import AnyDirectory, RunDirectory, check_empty
from decentral.run.journal import Tail
from decentral.run.recipe import Recipe, read_recipe
from decentral.run.serving_recipe import ServingRecipe, any_recipe
from decentral.run.source import Document
from decentral.run.standing import Standings
from decentral.trust.anchors import FILE, Anchors

_LOG = logging.getLogger(__name__)

STARTING, PLACING = 120.0, 3600.0
"""Seconds in which the peers must have started; on Ray, which may have to wait for machines."""
STOPPING = 20.0
"""Seconds that a launcher gets to end its nodes and to write down what came of the run."""
RESTARTS = 3
"""How often a node that serves is started again."""
LOOK = 0.05
"""Seconds between looks."""


def note_launcher(run: AnyDirectory) -> None:
    """Writes down that this process launches the run."""
    write_atomic(_pid_file(run), str(os.getpid()).encode())


def launcher_pid(run: AnyDirectory) -> int | None:
    """The process that runs a cluster, None if there is none: the lock tells, since a pid may be another's by now."""
    return int(_pid_file(run).read_text()) if run.in_use and _pid_file(run).exists() else None


def _pid_file(run: AnyDirectory) -> Path:
    return run.node("launcher") / "pid"


def start(
    recipe: Recipe,
    directory: Path,
    *,
    plugins: Sequence[Path] = (),
    restarts: int | None = 0,
    port: int | None = None,
    metrics: str | None = None,
    ray: RayOptions | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a cluster that trains and returns its launcher once all peers have started; with `ray`, on Ray.

    `restarts`: None, as many as are usual there. Raises UserError where the recipe or the machine cannot be used, and
    DecentralError where the launcher broke.
    """
    check_empty(directory)
    with tempfile.NamedTemporaryFile(suffix=".yaml") as resolved:
        resolved.write(recipe.to_yaml().encode())
        resolved.flush()
        where = [] if ray is None else ray.arguments()
        options = _options(plugins, restarts, port, metrics)
        standings, patience = Standings(recipe.peers), STARTING if ray is None else PLACING

        def ready() -> bool:
            return standings.started == recipe.peers

        arguments = ["run", resolved.name, "--out", str(directory), *where, *options]
        return _launch(arguments, directory, Tail(directory), standings, ready, patience=patience)


def start_serving(
    run: AnyDirectory,
    *,
    plugins: Sequence[Path] = (),
    restarts: int | None = None,
    port: int | None = None,
    metrics: str | None = None,
) -> subprocess.Popen[bytes]:
    """Starts the nodes of a cluster that serve, and returns their launcher once all of them do.

    Raises as `start` does.
    """
    from decentral.launch.serving import parts_of

    trust = run.path / FILE
    gone = {each.id for each in Anchors.load(trust).revoked} if trust.exists() else set()
    revoked = {peer.name for peer in Anchors.load(trust).peers if peer.id in gone} if gone else set()
    serving = sum(bool(part.script) and part.node not in revoked for part in parts_of(run))
    standings, tail = Standings(run.recipe.peers if isinstance(run, RunDirectory) else serving), Tail(run.path)
    tail.poll()  # what the run wrote is known
    arguments = ["serve", str(run.path), *_options(plugins, restarts, port, metrics)]
    return _launch(arguments, run.path, tail, standings, lambda: standings.serving == serving)


def _options(plugins: Sequence[Path], restarts: int | None, port: int | None, metrics: str | None) -> list[str]:
    """Of the command line."""
    options = [part for plugin in plugins for part in ("--plugin", str(plugin))]
    options += ["--port", str(port)] if port is not None else []
    options += ["--metrics", metrics] if metrics is not None else []
    options += ["--restart", str(restarts)] if restarts is not None else []
    return [*options, "--json"]


def _launch(
    arguments: Sequence[str],
    directory: Path,
    tail: Tail,
    standings: Standings,
    ready: Callable[[], bool],
    *,
    patience: float | None = None,
) -> subprocess.Popen[bytes]:
    """A launcher in the background, once it is `ready`; what it says until then becomes the error if it ends.

    `patience`: seconds that it may take; None: as many as nodes of this machine get.
    """
    patience = STARTING if patience is None else patience
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-P", "-m", "decentral", *arguments]
        launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        ends = time.monotonic() + patience
        try:
            while not ready():
                ended = launcher.poll() is not None
                standings.take_all(tail.poll())
                if ended and not ready():
                    said.seek(0)
                    text = said.read().decode(errors="replace").strip()
                    problem = f"\n{text}".partition("\nerror: ")[2] or text  # without what libraries said before
                    raise UserError(problem) if launcher.returncode == 2 else DecentralError(problem)
                if time.monotonic() > ends:
                    raise DecentralError(f"the nodes did not start within {patience:.0f} s; see {directory / 'nodes'}")
                time.sleep(LOOK)
        except BaseException:  # Ctrl-C too: nothing is left running that nobody knows of
            _end(launcher)
            raise
    return launcher


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Ends a launcher that we have started, and whoever belongs to its session: its nodes end with it."""
    if launcher.poll() is not None:
        return
    launcher.terminate()
    try:
        launcher.wait(STOPPING)
    except subprocess.TimeoutExpired:
        _LOG.warning("the launcher (process %d) did not end within %.0f s: it was killed", launcher.pid, STOPPING)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def stop(run: AnyDirectory) -> None:
    """Ends a cluster and waits for its last word. Raises UserError if it is not running."""
    pid = launcher_pid(run)
    if pid is None:
        raise UserError(f"{run.path}: this cluster is not running")
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGTERM)
    ends = time.monotonic() + STOPPING
    while run.in_use:
        if time.monotonic() > ends:
            raise DecentralError(f"{run.path}: the launcher (process {pid}) did not end within {STOPPING:.0f} s")
        time.sleep(LOOK)


def await_change(run: RunDirectory, tail: Tail, node: str, event: str) -> None:
    """Returns once the launcher says `event`, joined or left, of a node; `tail` has read what was said before.

    Raises UserError where a node could not join, and DecentralError where the launcher is gone or says nothing.
    """
    index, ends = int(node.rpartition("-")[2]), time.monotonic() + STARTING
    while True:
        running = run.in_use
        for told in tail.poll():
            if told["peer"] is None and told.get("other") == index and told["event"] in ("joined", "left"):
                if told["event"] == event:
                    return
                raise UserError(f"{node} could not serve, and the cluster goes on without: {told['problem']}")
        if not running:
            raise DecentralError(f"{run.path}: went down meanwhile; the next `up` takes {node} as it is now")
        if time.monotonic() > ends:
            raise DecentralError(f"{run.path}: the launcher did not take note of {node} within {STARTING:.0f} s")
        time.sleep(LOOK)


class LocalCluster:
    """A recipe's peers as processes of this machine, for as long as the `with` block runs.

        with LocalCluster("dimat-digits", overrides=["rounds=5"]) as cluster:
            summary = cluster.wait()

    Of a recipe that serves a model, the block begins once all nodes answer, after the training that it may take.
    `directory` is the run directory; a temporary folder's if none is given, and gone with it.
    """

    def __init__(
        self,
        recipe: Recipe | ServingRecipe | Path | str,
        *,
        overrides: Sequence[str] = (),
        directory: Path | str | None = None,
        plugins: Sequence[Path] = (),
        restarts: int = 0,
        port: int | None = None,
    ) -> None:
        """Raises RecipeError."""
        document = Document("", {}) if isinstance(recipe, Recipe | ServingRecipe) else read_recipe(recipe)
        self.recipe = recipe if isinstance(recipe, Recipe | ServingRecipe) else any_recipe(document, overrides)
        self._document = document
        self._temporary = tempfile.TemporaryDirectory(prefix="decentral-") if directory is None else None
        self.directory = Path(self._temporary.name if self._temporary else directory or "")
        self._plugins, self._restarts, self._port = plugins, restarts, port
        self._launcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Returns once all peers have started, or serve."""
        try:
            self._launcher = self._started()
        except BaseException:
            if self._temporary is not None:
                self._temporary.cleanup()
            raise
        return self

    def _started(self) -> subprocess.Popen[bytes]:
        if isinstance(self.recipe, Recipe):
            return start(self.recipe, self.directory, plugins=self._plugins, restarts=self._restarts, port=self._port)
        from decentral.launch.prepare import prepare

        with self._document.placing():
            cluster = prepare(self.recipe, self.directory, plugins=self._plugins)
        return start_serving(cluster, plugins=self._plugins, restarts=self._restarts, port=self._port)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._launcher is not None:
            _end(self._launcher)
        if self._temporary is not None:
            self._temporary.cleanup()

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """The summary, once the last round is over. Raises DecentralError if the run broke or takes too long.

        A cluster that serves has no last round: UserError.
        """
        if isinstance(self.recipe, ServingRecipe):
            raise UserError("a cluster that serves runs until its with block ends")
        assert self._launcher is not None, "the cluster is up inside its with block only"
        try:
            code = self._launcher.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise DecentralError(f"the run did not end within {timeout} s") from error
        if code:
            raise DecentralError(f"the run ended with exit code {code}; see {self.directory / 'nodes'}")
        summary: dict[str, Any] = json.loads(RunDirectory.open(self.directory).summary_file.read_bytes())
        return summary
