"""Tables and curves of `dimat_accuracy`, from the runs that it measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
BEFORE, ALONE = "before", "alone"
GOAL, COMMON = "D-PSGD, every batch", "D-PSGD, common start"
"""Both mix after every batch. The first starts where the others do, from networks trained apart; the second is what
D-PSGD is usually given, one initialisation for all and a mix after every batch from the first epoch on."""
ALIGNED, AVERAGED = "DIMAT", "WA + BatchNorm"
LEAD, SHARE = 0.10, 0.10
"""The goals: what matching must be worth at the widest, and the share of D-PSGD's bytes that must do."""


@dataclass(frozen=True)
class Point:
    """One evaluation: local epochs since the first merge, test accuracies, bytes of models sent so far by all peers."""

    epochs: float
    mean: float
    lowest: float
    highest: float
    sent: int


@dataclass(frozen=True)
class Run:
    """One line of a table or one curve, for one seed."""

    experiment: str
    method: str
    topology: str
    partition: str
    width: int
    seed: int
    points: Sequence[Point]

    def reaches(self, accuracy: float) -> int | None:
        """Bytes sent when it was as accurate for the first time, if it ever was."""
        return next((point.sent for point in self.points if point.mean >= accuracy), None)


def pick(runs: Iterable[Run], **where: object) -> list[Run]:
    """The runs that have these values."""
    return [run for run in runs if all(getattr(run, key) == value for key, value in where.items())]


def methods(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def topologies(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(run.topology for run in runs))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Of accuracies, in per cent; the spread is the standard deviation, 0 of a single value."""
    return 100 * statistics.fmean(values), 100 * statistics.stdev(values) if len(values) > 1 else 0.0


def shown(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:5.1f}" + (f" ± {spread:4.1f}" if len(values) > 1 else "")


def show_first_merge(runs: Sequence[Run], widths: Sequence[int]) -> None:
    """Rows: method and graph; columns: widths."""
    print("\nFirst merge: mean test accuracy of the five peers in %")
    print(f"{'':<26}" + "".join(f"{f'width {width}':>16}" for width in widths))
    for topology in topologies(runs):
        for method in methods(runs):
            found = pick(runs, experiment="first", topology=topology, method=method)
            cells = [shown([run.points[-1].mean for run in pick(found, width=width)]) for width in widths]
            print(f"{f'{method}, {topology}':<26}" + "".join(f"{cell:>16}" for cell in cells))


def show_rounds(runs: Sequence[Run], partition: str) -> None:
    """Last accuracy, megabytes, and the megabytes after which each goal's last accuracy was reached."""
    print(f"\n{partition}, after {runs[0].points[-1].epochs:g} local epochs; MB: models that all peers sent together")
    print("to A, to B: MB until the last accuracy of")
    print(f"  A {GOAL}    B {COMMON}; in brackets the share of what that one sent")
    print(f"{'':<24}{'accuracy %':>14}{'MB':>10}{'to A':>20}{'to B':>20}")
    for method in methods(runs):
        mine = pick(runs, method=method)
        accuracy = shown([run.points[-1].mean for run in mine])
        sent = statistics.fmean(run.points[-1].sent for run in mine) / 1e6
        reached = "".join(f"{until(mine, pick(runs, method=goal)):>20}" for goal in (GOAL, COMMON))
        print(f"{method:<24}{accuracy:>14}{sent:>10.1f}{reached}")
    theirs = {run.seed: run.points for run in pick(runs, method=AVERAGED)}
    pairs = [(run.points, theirs[run.seed]) for run in pick(runs, method=ALIGNED) if run.seed in theirs]
    if not pairs:
        return
    print("\nWhat matching adds at equal bytes: DIMAT minus WA + BatchNorm, percentage points, after each round")
    for place in range(len(pairs[0][0])):
        print(f"  {place + 1:>3}  {shown([ours[place].mean - other[place].mean for ours, other in pairs])}")


def until(runs: Sequence[Run], goals: Sequence[Run]) -> str:
    """Megabytes until the last accuracy of the goal with the same seed; how many got there, when not all did."""
    if not goals:
        return "not run"
    ends = {goal.seed: goal.points[-1] for goal in goals}
    reached = [(run.reaches(ends[run.seed].mean), ends[run.seed].sent) for run in runs]
    there = [(ours, theirs) for ours, theirs in reached if ours is not None]
    if len(there) < len(runs):
        return f"{len(there)} of {len(runs)} do"
    megabytes = statistics.fmean(ours for ours, _ in there) / 1e6
    return f"{megabytes:.1f} ({statistics.fmean(ours / theirs for ours, theirs in there):.3f})"


def missed_by_first_merge(runs: Sequence[Run], widths: Sequence[int]) -> list[str]:
    """Where aligned averages, mean over the seeds, are not above plain ones, or at the widest not `LEAD` above."""
    missed = []
    for topology in topologies(runs):
        for width in widths:
            here = pick(runs, experiment="first", topology=topology, width=width)
            ours, theirs = (
                [run.points[-1].mean for run in pick(here, method=method)] for method in (ALIGNED, AVERAGED)
            )
            lead = statistics.fmean(ours) - statistics.fmean(theirs)
            if lead <= 0 or (width == max(widths) and lead < LEAD):
                wanted = LEAD if width == max(widths) else 0.0
                missed.append(
                    f"first merge, {topology}, width {width}: {ALIGNED} is {100 * lead:.1f} points above {AVERAGED}; "
                    f"goal: {'at least' if wanted else 'more than'} {100 * wanted:.0f}"
                )
    return missed


def missed_by_rounds(runs: Sequence[Run], partition: str) -> list[str]:
    """Whether all runs of ours come to where D-PSGD that mixes every batch ends, with `SHARE` of its bytes in the mean.

    Nothing is missed where either was not run.
    """
    ends = {run.seed: run.points[-1] for run in pick(runs, method=GOAL)}
    mine = [run for run in pick(runs, method=ALIGNED) if run.seed in ends]
    sent = [(run.reaches(ends[run.seed].mean), ends[run.seed].sent) for run in mine]
    shares = [ours / theirs for ours, theirs in sent if ours is not None]
    if len(shares) < len(mine):
        return [f"rounds, {partition}: {len(mine) - len(shares)} of {len(mine)} runs never are as accurate as {GOAL}"]
    if shares and statistics.fmean(shares) > SHARE:
        return [f"rounds, {partition}: {ALIGNED} needs {statistics.fmean(shares):.3f} of {GOAL}'s bytes; goal: {SHARE}"]
    return []


def draw_first_merge(runs: Sequence[Run], widths: Sequence[int], suffix: str = "") -> Path:
    """Bars, one panel for each graph."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    graphs = topologies(runs)
    panels = figure.subplots(1, len(graphs), sharey=True)
    for panel, topology in zip(panels, graphs, strict=True):
        for place, method in enumerate(methods(runs)):
            found = pick(runs, experiment="first", topology=topology, method=method)
            bars = [mean_and_spread([run.points[-1].mean for run in pick(found, width=width)]) for width in widths]
            means, spreads = zip(*bars, strict=True)
            columns = [column + 0.2 * (place - 1.5) for column in range(len(widths))]
            panel.bar(columns, means, 0.18, yerr=spreads, label=method)
        panel.set_xticks(range(len(widths)), [f"width {width}" for width in widths])
        panel.set_title(f"first merge on a {topology} graph")
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("mean test accuracy (%)")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return saved(figure, f"dimat-first-merge{suffix}")


def draw_rounds(runs: Sequence[Run], partition: str, dataset: str) -> Path:
    """Curves of the mean over seeds, the spread shaded; bytes on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    panel = figure.subplots()
    for method in methods(runs):
        columns = list(zip(*(run.points for run in pick(runs, method=method)), strict=True))
        means, spreads = zip(*(mean_and_spread([point.mean for point in column]) for column in columns), strict=True)
        if method == ALONE:
            panel.axhline(means[-1], color="grey", linestyle=":", label="alone, at the end; nothing is sent")
            continue
        sent = [statistics.fmean(point.sent / 1e6 for point in column) for column in columns]
        style = "--" if "every batch" in method or method == COMMON else "-"
        [line] = panel.plot(sent, means, marker=".", linestyle=style, label=method)
        low, high = ([mean + sign * d for mean, d in zip(means, spreads, strict=True)] for sign in (-1, 1))
        panel.fill_between(sent, low, high, color=line.get_color(), alpha=0.15)
    panel.set_xscale("log")
    panel.set_xlabel("models sent by all peers (MB, logarithmic)")
    panel.set_ylabel("mean test accuracy (%)")
    panel.set_title(f"{dataset}, five peers, {partition}")
    panel.grid(which="both", alpha=0.2)
    panel.legend(fontsize="small")
    return saved(figure, f"dimat-rounds-{partition}")


def saved(figure: Figure, name: str) -> Path:
    FIGURES.mkdir(parents=True, exist_ok=True)
    file = FIGURES / f"{name}.png"
    figure.savefig(file, dpi=120, metadata={"Software": None})
    return file
