"""What the nodes of a run have written on machines of their own, brought together in the folder it was made in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentral.errors import RunDirectoryError
from decentral.launch.apart import APART, OWN
from decentral.launch.cluster import LOCK, Cluster
from decentral.run.directory import CHECKPOINTS, RunDirectory, refusing
from decentral.run.journal import merge
from decentral.run.report import write_report
from decentral.run.summary import write_summary
from decentral.serving.access import PIPELINE

KEPT = (*OWN, LOCK)
"""Of a node's folder what stays with it."""


def gather(run: RunDirectory, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """Copies journals, models and checkpoints from nodes' own run directories; writes summary and report. Blocking.

    `folders`: copies of those directories; none: those in `apart`, if there are any. Finished or not: the summary,
    which is returned, says how far the run is. Raises RunDirectoryError.
    """
    with refusing(run.path):
        for folder in folders or sorted((run.path / APART).glob("*")):
            _take(run, folder)
    events = merge(run)
    times = [event["t"] for event in events] or [0.0]  # they count from when the folder was made
    summary = write_summary(run, wall=max(times) - min(times))
    write_report(run)
    return summary


def _take(run: RunDirectory, folder: Path) -> None:
    given = RunDirectory.open(folder)
    if differing := given.recipe.differences(run.recipe):
        raise RunDirectoryError(f"{folder}: is of another recipe; these keys differ: {', '.join(differing)}")
    for member in Cluster.load(run.path).members:
        if (given.nodes / member.name).is_dir():
            _copy(given.nodes / member.name, run.node(member.name), *KEPT)
    for name in (CHECKPOINTS, PIPELINE):
        if (given.path / name).is_dir():
            _copy(given.path / name, run.path / name)


def _copy(source: Path, target: Path, *without: str) -> None:
    """Plain files alone: what comes from another machine may link to anything here."""

    def left(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in without or name[0] == "." or (Path(folder) / name).is_symlink()]

    shutil.copytree(source, target, ignore=left, dirs_exist_ok=True)
