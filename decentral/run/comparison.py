"""One page for several runs: accuracy against rounds, time, bytes and training work, in the same figures.

Runs are called by what tells their recipes apart; how they were measured is said where it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from decentral.algorithms.catalogue import DRAWING, SPLIT
from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.run import charts
from decentral.run.course import Point, course, sent_in_all
from decentral.run.directory import RunDirectory
from decentral.run.figures import Way, accuracy_chart, cost_charts, readable_bytes, sent_bars
from decentral.run.journal import Event, merge
from decentral.run.recipe import Recipe
from decentral.run.report import page, section
from decentral.run.summary import summarise

MOST_RUNS = 2 * charts.COLOURS
"""Runs that can be told apart: by colour, and by whether their lines are dashed."""
MOST_TELLING = 3
"""Keys of recipes by whose values runs are called; where more differ, or do not tell, by their folders."""
UNLINKED = {"isolated", "fedavg", "epidemic", *DRAWING, *SPLIT}
"""Algorithms in which the topology plays no part."""
FAR_APART = 4
"""Times that one run may have sent what another has, up to which their bytes and work have a linear scale."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A run, as far as it is compared."""

    folder: str
    recipe: Recipe
    world: str
    points: Sequence[Point]
    sent: dict[str, int]
    summary: dict[str, Any]

    @classmethod
    def of(cls, folder: str, recipe: Recipe, world: str, events: Sequence[Event]) -> Compared:
        summary = summarise(recipe, world, events)
        return cls(folder, recipe, world, course(recipe, events), sent_in_all(events), summary)


def write_comparison(directories: Sequence[Path], file: Path) -> Path:
    """Writes a page about runs, finished or not. Raises UserError where they cannot be told apart."""
    folders = [directory.resolve() for directory in directories]
    if twice := [str(path) for place, path in enumerate(folders) if path in folders[:place]]:
        raise UserError(f"{twice[0]}: this run is named twice")
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs are more than the {MOST_RUNS} that one figure can tell apart")
    runs = [RunDirectory.open(directory) for directory in directories]
    compared = [Compared.of(str(run.path), run.recipe, run.world, merge(run)) for run in runs]
    try:
        write_atomic(file, compare(compared).encode())
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def compare(runs: Sequence[Compared]) -> str:
    """The page, as HTML."""
    names = labels(runs)
    ways = [Way(name, _style(place), run.points) for place, (name, run) in enumerate(zip(names, runs, strict=True))]
    measured = [way.points[-1] for way in ways if way.points]
    spread = max((point.total for point in measured), default=0) / max(1, min((p.total for p in measured), default=1))
    plots = [
        accuracy_chart(ways, charts.Axis("round"), lambda point: point.round),
        *cost_charts(ways, "log" if spread > FAR_APART else "linear"),
    ]
    legend = charts.line_legend([(way.label, way.style) for way in ways])
    figure = f'{legend}<div class="columns">{"".join(plots)}</div>'
    words = (
        "Mean test accuracy; where samples are drawn, that of the aggregate. Bytes and images are those of all peers."
    )
    content = "".join(
        [
            section("Accuracy and what it cost", words, figure),
            section("At the end", "Of each run as far as it went.", _ends(runs, names)),
            _reached(runs, names),
            section("Bytes", "Sent by all peers, by what they carry.", sent_bars(_sent(runs, names))),
        ]
    )
    keys = differing(runs)
    words = f"{len(runs)} runs; their recipes differ in {', '.join(keys)}." if keys else "Runs of one recipe."
    hashes = [f"{escape(name)}: <code>{run.recipe.hash[:16]}</code>" for name, run in zip(names, runs, strict=True)]
    return page("Comparison", f"<p>{escape(words)}{_worlds(runs)}</p>", content, hashes)


def differing(runs: Sequence[Compared]) -> list[str]:
    """Dotted keys in which a recipe differs from the first; a name's options beside it are not told apart from it."""
    found = dict.fromkeys(key for run in runs[1:] for key in runs[0].recipe.differences(run.recipe))
    return [key for key in found if not any(key.startswith(f"{other}.") for other in found)]


def labels(runs: Sequence[Compared]) -> list[str]:
    """A short name for each run, all different: the algorithm and what else tells its recipe apart, or its folder."""
    keys = [key for key in differing(runs) if key != "algorithm"]
    for telling in ([key for key in keys if key != "rounds"], keys):
        named = [", ".join([run.recipe.algorithm, *_telling(run.recipe, telling)]) for run in runs]
        if len(telling) <= MOST_TELLING and len(set(named)) == len(named):
            return named
    folders = [Path(run.folder).name for run in runs]
    return folders if len(set(folders)) == len(folders) else [run.folder for run in runs]


def _telling(recipe: Recipe, keys: Sequence[str]) -> list[str]:
    values: list[str] = []
    for key in keys:
        value: Any = recipe.model_dump()
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if key == "topology":
            values += [] if recipe.algorithm in UNLINKED else [_brief(value)]
        else:
            values.append(f"{key} {_brief(value)}")
    return values


def _brief(value: object) -> str:
    """A name with its options in words."""
    if isinstance(value, dict):
        return " ".join(str(part) if key == "name" else f"{key} {part}" for key, part in value.items())
    return "null" if value is None else str(value)


def _style(place: int) -> str:
    return f"p{place % charts.COLOURS}{' dashed' if place >= charts.COLOURS else ''}"


def _worlds(runs: Sequence[Compared]) -> str:
    worlds = {run.world for run in runs}
    if len(worlds) == 1:
        return " Their time is virtual: they ran in the simulator." if worlds == {"sim"} else ""
    return " Not all ran in the same world: their times are not to be compared."


def _sent(runs: Sequence[Compared], names: Sequence[str]) -> list[tuple[str, dict[str, int]]]:
    return [(name, run.sent) for name, run in zip(names, runs, strict=True)]


def _ends(runs: Sequence[Compared], names: Sequence[str]) -> str:
    rows = []
    for name, run in zip(names, runs, strict=True):
        accuracy, seconds, gone = run.summary["accuracy"], run.summary["virtual_seconds"], run.summary["crashed"]
        rows.append(
            [
                name,
                _percent(accuracy["mean"]),
                "" if accuracy["min"] is None else f"{_percent(accuracy['min'])} to {_percent(accuracy['max'])}",
                f"{run.summary['rounds']} of {run.recipe.rounds}",
                _seconds(run.summary["seconds"]["wall"] if seconds is None else seconds),
                readable_bytes(run.summary["bytes"]["total"]),
                f"{run.points[-1].images:,}" if run.points else "",
                str(len(gone)),
            ]
        )
    return _table(["", "accuracy", "of peers", "rounds", "time", "sent", "training images", "crashes"], rows)


def _reached(runs: Sequence[Compared], names: Sequence[str]) -> str:
    """What each run had spent when it was as accurate as all of them have been."""
    best = [max((point.accuracy for point in run.points), default=None) for run in runs]
    if len(runs) < 2 or (found := [accuracy for accuracy in best if accuracy is not None]) != best:
        return ""
    goal = min(found)
    rows = []
    for name, run in zip(names, runs, strict=True):
        point = next(point for point in run.points if point.accuracy >= goal)
        cells: list[Callable[[Point], str]] = [
            lambda point: f"{point.round:,}",
            lambda point: _seconds(point.seconds),
            lambda point: readable_bytes(point.total),
            lambda point: f"{point.images:,}",
        ]
        rows.append([name, *(cell(point) for cell in cells)])
    words = f"When each was evaluated at {_percent(goal)} or more for the first time, which all of them have reached."
    return section("To the same accuracy", words, _table(["", "rounds", "time", "sent", "training images"], rows))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="figures-table"><tr>{head}</tr>{body}</table></div>'


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 3600 else f"{value / 3600:.2f} h"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
