"""What a sample is worth: MoDeST beside the others that average, by rounds, time, bytes and training work.

    python -m benchmarks.modest_accuracy [--seeds 3] [--rounds 100] [--methods NAME ...] [--jobs 2] [--json FILE]

A hundred simulated peers train GN-LeNet on a class-balanced subset of CIFAR-10, shared out alike, on one synthetic
trace of speeds, bandwidths and cities. MoDeST draws ten of them in each round, and so does the server of FedAvg, as the
paper's: the goal by rounds is judged against that row where it is there. FedAvg with all clients, whose rounds have all
hundred at work as everybody else's, averages ten times as many models: a harder mark by rounds and an easier one by
bytes. Either server is peer 0 with the trace's bandwidth, where the paper's has no limit, so that its time says little.
Accuracy is that of MoDeST's and FedAvg's common model, and the mean of all peers' own models elsewhere.
Bytes are what all peers sent by the end of a round, work is the training images of the local rounds completed by then.
Every run is `decentral run --on sim`; what was measured is kept in .cache/benchmarks/modest_accuracy, one JSON a run,
and never measured twice. Draws docs/figures/modest-accuracy.png. The images lie under $DECENTRAL_DATA.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.dimat_accuracy import ROOT, kept, no_data
from benchmarks.dimat_curves import mean_and_spread, saved, shown
from benchmarks.modest_watch import Sent, counted
from decentral.errors import DecentralError
from decentral.run.journal import Event
from decentral.run.recipe import Recipe

CACHE = ROOT / ".cache" / "benchmarks" / "modest_accuracy"
OURS, SAMPLED, SERVER = "MoDeST", "FedAvg, 10 a round", "FedAvg, all clients"
DRAWN = (OURS, SAMPLED)
"""Those in which few peers take part in a round, and there is one model for all."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    OURS: {"algorithm": "modest"},
    SAMPLED: {"algorithm": "fedavg", "fedavg": {"clients": 10}},
    SERVER: {"algorithm": "fedavg"},
    "D-PSGD, ring": {"algorithm": "dpsgd", "topology": "ring"},
    "D-PSGD, exponential": {"algorithm": "dpsgd", "topology": "exponential"},
    "D-PSGD, regular": {"algorithm": "dpsgd", "topology": {"name": "regular", "degree": 10}},
    "SGP, one-peer exponential": {"algorithm": "sgp", "topology": "exponential"},
    "gossip, regular": {"algorithm": "gossip", "topology": {"name": "regular", "degree": 10}},
    "epidemic, one peer": {"algorithm": "epidemic"},
}
LONGER = 2
"""Times the others' rounds that MoDeST's runs have, to see when it gets there; its rounds cost a tenth.

The rounds of FedAvg with a sample cost the same. It has so many fewer that MoDeST can need what the goal allows it.
"""
ROUNDS_GOAL, BYTES_GOAL = 1.1, 3.0
"""At most: MoDeST's rounds to FedAvg's last accuracy, of those in which FedAvg first had it; at least: D-PSGD's bytes
to MoDeST's."""
AXES: Mapping[str, Callable[[Point], float]] = {
    "rounds": lambda point: point.round,
    "virtual time (h)": lambda point: point.seconds / 3600,
    "sent by all peers (MB)": lambda point: (point.model_bytes + point.control_bytes) / 1e6,
    "training images seen (thousands)": lambda point: point.images / 1e3,
}
LOGARITHMIC = ("sent by all peers (MB)", "training images seen (thousands)")


@dataclass(frozen=True)
class Point:
    """One evaluated round: mean test accuracy, virtual seconds, bytes and training images of all peers until then."""

    round: int
    accuracy: float
    seconds: float
    model_bytes: int
    control_bytes: int
    images: int

    @property
    def sent(self) -> int:
        return self.model_bytes + self.control_bytes


@dataclass(frozen=True)
class Run:
    """The curve of one method and seed."""

    method: str
    seed: int
    points: Sequence[Point]

    def reaches(self, accuracy: float) -> Point | None:
        """The first point as accurate, if there is one."""
        return next((point for point in self.points if point.accuracy >= accuracy), None)


@dataclass(frozen=True)
class Setting:
    """What all runs of one invocation share."""

    dataset: str
    model: str
    peers: int
    subset: int
    test: int
    rounds: int
    every: int
    epochs: int
    batch: int
    learning_rate: float
    device: str

    def rounds_of(self, method: str) -> int:
        if method not in DRAWN:
            return self.rounds
        longer = self.rounds * LONGER
        return longer if method == OURS else max(1, int(longer / ROUNDS_GOAL) // self.every) * self.every

    def recipe(self, method: str, seed: int) -> Recipe:
        values: dict[str, Any] = {
            "name": "modest-accuracy",
            "peers": self.peers,
            "rounds": self.rounds_of(method),
            "seed": seed,
            "device": self.device,
            "model": self.model,
            "data": {"name": self.dataset, "subset": self.subset, "verify": False},
            "training": {
                "epochs": self.epochs,
                "batch_size": self.batch,
                "learning_rate": self.learning_rate,
                "momentum": 0.9,
            },
            "sampling": {"patience": 300.0},
            "evaluation": {"every": self.every, "samples": self.test},
            "checkpoint": {"every": 1_000_000},
            "deadlines": {"round": 7200.0, "probe": 30.0, "call": 3600.0},
            "simulation": {"trace": "synthetic", "samples_per_second": 50.0, "bandwidth": 1.25e6},
        }
        return Recipe.model_validate({**values, **METHODS[method]})


@dataclass(frozen=True)
class Job:
    """One run to make."""

    method: str
    seed: int
    recipe: Recipe

    def file(self) -> Path:
        name = re.sub("[^a-z0-9]+", "-", f"{self.method}-seed{self.seed}".lower())
        return CACHE / f"{name}-{self.recipe.hash[:12]}.json"


class Seen:
    """What had been sent in all when each average was first evaluated, where few take part in a round: only they and
    the aggregator know when it ends."""

    def __init__(self, sent: Sent) -> None:
        self.sent, self.at = sent, dict[int, Sent]()

    def observe(self, event: Event) -> None:
        if event["event"] == "evaluated":
            self.at.setdefault(event["round"], self.sent.copy())


def measure(job: Job) -> Run:
    """What one job comes to, from the cache if the run was made before."""
    with counted() as sent:
        seen = Seen(sent)
        points = sampled_points(seen) if job.method in DRAWN else common_points
        found = kept(job.file(), job.recipe, points, seen.observe)
    return Run(job.method, job.seed, [Point(**point) for point in found])


def sampled_points(seen: Seen) -> Callable[[Iterable[Event]], list[Mapping[str, Any]]]:
    """One point for each average that its aggregator evaluated, as of then."""

    def points(events: Iterable[Event]) -> list[Mapping[str, Any]]:
        found: dict[int, Mapping[str, Any]] = {}
        images = 0
        for event in events:
            if event["event"] == "trained":
                images += event["samples"]
            elif event["event"] == "evaluated" and event["round"] not in found:
                sent = seen.at[event["round"]]
                point = Point(
                    event["round"], event["accuracy"], event["t"], sent.model_bytes, sent.letter_bytes, images
                )
                found[event["round"]] = asdict(point)
        return [found[round] for round in sorted(found)]

    return points


def common_points(events: Iterable[Event]) -> list[Mapping[str, Any]]:
    """One point for each evaluated round, which lasts until its last peer has ended it."""
    accuracies: dict[int, list[float]] = {}
    images, ends = Counter[int](), dict[int, float]()
    model, total = Counter[int](), Counter[int]()
    for event in events:
        match event["event"]:
            case "evaluated":
                accuracies.setdefault(event["round"], []).append(event["accuracy"])
            case "trained":
                images[event["round"]] += event["samples"]
            case "round":
                ends[event["round"]] = event["t"]
                model[event["round"]] += event["bytes"]["model"]
                total[event["round"]] += event["bytes"]["total"]
    seen = dict(zip(sorted(images), accumulate(images[round] for round in sorted(images)), strict=True))
    return [
        asdict(
            Point(round, statistics.fmean(found), ends[round], model[round], total[round] - model[round], seen[round])
        )
        for round, found in sorted(accuracies.items())
    ]


def chosen(runs: Iterable[Run], method: str) -> list[Run]:
    return [run for run in runs if run.method == method]


def show(runs: Sequence[Run], methods: Sequence[str]) -> bool:
    """Prints the tables; whether the goals were reached, where they can be told."""
    print(
        f"\n{'after the last round':<28}{'accuracy %':>14}{'rounds':>8}{'virtual h':>11}"
        f"{'models, MB':>12}{'other, MB':>11}{'images, k':>11}"
    )
    for method in methods:
        ends = [run.points[-1] for run in chosen(runs, method)]
        figures = (
            f"{statistics.fmean(end.seconds for end in ends) / 3600:>11.2f}"
            f"{statistics.fmean(end.model_bytes for end in ends) / 1e6:>12.1f}"
            f"{statistics.fmean(end.control_bytes for end in ends) / 1e6:>11.3f}"
            f"{statistics.fmean(end.images for end in ends) / 1e3:>11.1f}"
        )
        print(f"{method:<28}{shown([end.accuracy for end in ends]):>14}{ends[0].round:>8}{figures}")
    if OURS not in methods:
        return True
    print(
        "\nMoDeST until it has reached the last accuracy of each, as multiples of MoDeST's own rounds, time, bytes and "
        "work\n(above 1: MoDeST needed less; seeds in which it never got there count as misses)"
    )
    print(f"{'':<28}{'reached':>10}{'rounds':>9}{'time':>9}{'bytes':>9}{'work':>9}")
    reached, mark = True, SAMPLED if SAMPLED in methods else SERVER
    for method in [name for name in methods if name != OURS]:
        ratios = compared(chosen(runs, OURS), chosen(runs, method))
        cells = "".join(f"{statistics.fmean(column):>9.2f}" for column in zip(*ratios, strict=True)) if ratios else ""
        seeds = len(chosen(runs, method))
        print(f"{method:<28}{f'{len(ratios)} of {seeds}':>10}{cells}")
        there = len(ratios) == seeds
        if method == mark:
            reached &= there and statistics.fmean(1 / row[0] for row in ratios) <= ROUNDS_GOAL
        elif method.startswith("D-PSGD"):
            reached &= there and statistics.fmean(row[2] for row in ratios) >= BYTES_GOAL
    print(
        f"goals: {mark}: rounds at least {1 / ROUNDS_GOAL:.2f} (MoDeST in at most {ROUNDS_GOAL:g} times its rounds); "
        f"D-PSGD: bytes at least {BYTES_GOAL:g} (the paper: 3 to 14)"
    )
    return reached


def compared(ours: Sequence[Run], others: Sequence[Run]) -> list[tuple[float, float, float, float]]:
    """Rounds, time, bytes, work until the other's last accuracy: the other's by ours, for each seed in which we get
    there. Either is counted until it was as accurate for the first time."""
    ratios = []
    for other in others:
        goal = other.points[-1].accuracy
        mine = next(run for run in ours if run.seed == other.seed).reaches(goal)
        theirs = other.reaches(goal)
        if mine is not None and theirs is not None:
            ratios.append(
                (
                    theirs.round / mine.round,
                    theirs.seconds / mine.seconds,
                    theirs.sent / mine.sent,
                    theirs.images / mine.images,
                )
            )
    return ratios


def draw(runs: Sequence[Run], methods: Sequence[str], title: str) -> Path:
    """Accuracy against rounds, time, bytes and work; means over seeds, the spread shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    panels = figure.subplots(2, 2, sharey=True).flat
    for (name, value), panel in zip(AXES.items(), panels, strict=True):
        for method in methods:
            by_round: dict[int, list[Point]] = {}
            for point in (point for run in chosen(runs, method) for point in run.points):
                by_round.setdefault(point.round, []).append(point)
            columns = [by_round[round] for round in sorted(by_round)]
            places = [statistics.fmean(map(value, column)) for column in columns]
            means, spreads = zip(*(mean_and_spread([p.accuracy for p in column]) for column in columns), strict=True)
            [line] = panel.plot(places, means, label=method, linewidth=2.2 if method == OURS else 1.2)
            low, high = ([mean + sign * d for mean, d in zip(means, spreads, strict=True)] for sign in (-1, 1))
            panel.fill_between(places, low, high, color=line.get_color(), alpha=0.15)
        if name in LOGARITHMIC:
            panel.set_xscale("log")
        panel.set_xlabel(name)
        panel.set_ylabel("test accuracy (%)")
        panel.grid(which="both", alpha=0.2)
        if name == "rounds":
            panel.legend(fontsize="small")
    return saved(figure, "modest-accuracy")


def main() -> int:
    """Zero if the goals were reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=100, help=f"MoDeST's runs have {LONGER} times as many")
    parser.add_argument("--every", type=int, default=5, help="rounds between evaluations")
    parser.add_argument("--subset", type=int, default=10_000, help="class-balanced training images over all peers")
    parser.add_argument("--test", type=int, default=1000, help="class-balanced test images")
    parser.add_argument("--epochs", type=int, default=1, help="local epochs a round")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dataset", default="cifar10", help="digits with mlp: to see that everything works")
    parser.add_argument("--model", default="gn-lenet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every point there")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.jobs < 1:
        parser.error("--seeds and --jobs are 1 or more")
    if (missing := no_data(arguments.dataset)) is not None:
        print(f"skipped: {missing}")
        return 0
    setting = Setting(**{name: getattr(arguments, name) for name in Setting.__dataclass_fields__})
    title = (
        f"{setting.dataset}, {setting.subset} training images over {setting.peers} peers, {setting.test} test images, "
        f"{setting.model}"
    )
    try:
        jobs = [
            Job(method, seed, setting.recipe(method, seed))
            for seed in range(arguments.seeds)
            for method in arguments.methods
        ]
        print(
            f"{title};\nSGD {setting.learning_rate:g}, momentum 0.9, batches of {setting.batch}, local epochs a round: "
            f"{setting.epochs}; synthetic trace, 50 images/s and 10 Mbit/s in the median;\nMoDeST: "
            f"s = {jobs[0].recipe.sample}, a = 1, sf = 1; {arguments.seeds} seeds, mean ± standard deviation; "
            f"evaluated every {setting.every} rounds",
            flush=True,
        )
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            runs = list(pool.map(measure, jobs))
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        print(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 1
    except DecentralError as error:
        print(error, file=sys.stderr)
        return 1
    methods = [method for method in METHODS if method in arguments.methods]
    reached = show(runs, methods)
    print(f"drawn: {draw(runs, methods, title).relative_to(ROOT)}")
    if arguments.json:
        content = {"setting": asdict(setting), "runs": [asdict(run) for run in runs]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
