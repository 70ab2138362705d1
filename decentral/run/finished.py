"""Training runs that have come to their end, and whose model is the best of theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.errors import RunDirectoryError
from decentral.run.directory import RunDirectory


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """The directory, and the accuracy of each peer's model; None for one that was not measured."""

    directory: RunDirectory
    accuracies: tuple[float | None, ...]

    @classmethod
    def open(cls, path: Path) -> FinishedRun:
        """Raises RunDirectoryError for what is no training run, and for one that goes on or was interrupted."""
        run = RunDirectory.open(path)
        if run.in_use:
            raise RunDirectoryError(f"{path}: this run is not over yet")
        summary = _summary(run)
        if summary["rounds"] < run.recipe.rounds:
            raise RunDirectoryError(
                f"{path}: this run ended in round {summary['rounds']} of {run.recipe.rounds}; go on with it: "
                f"decentral run {run.recipe_file} --out {path} --resume"
            )
        return cls(run, tuple(summary["accuracy"]["per_peer"]))

    @classmethod
    def is_over(cls, path: Path) -> bool:
        """Whether the run there has come to its end. Raises RunDirectoryError where there is none."""
        run = RunDirectory.open(path)
        return run.summary_file.exists() and _summary(run)["rounds"] >= run.recipe.rounds

    def choose(self, peer: int | None) -> int:
        """That peer, or the honest one with the best accuracy, the first of equals. Raises RunDirectoryError."""
        path = self.directory.path
        if peer is not None:
            if peer >= self.directory.recipe.peers:
                raise RunDirectoryError(f"{path}: this run has the peers 0 to {self.directory.recipe.peers - 1}")
            return peer
        measured = {
            index: accuracy
            for index, accuracy in enumerate(self.accuracies)
            if accuracy is not None and index not in self.directory.recipe.aside
        }
        if not measured:
            raise RunDirectoryError(f"{path}: no peer's accuracy was measured: say whose model is meant by model.peer")
        return max(measured, key=lambda index: (measured[index], -index))


def _summary(run: RunDirectory) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(run.summary_file.read_bytes())
        int(summary["rounds"]), list(summary["accuracy"]["per_peer"])
    except FileNotFoundError:
        raise RunDirectoryError(
            f"{run.path}: this run was interrupted (there is no {run.summary_file.name}); go on with it: "
            f"decentral run {run.recipe_file} --out {run.path} --resume"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{run.summary_file}: damaged") from error
    return summary
