"""What matching is worth: networks trained apart on real CIFAR-10, merged once, and then trained on round by round.

    python -m benchmarks.dimat_accuracy [--widths 1 2] [--seeds 3] [--rounds 10] [--only first-merge|rounds]
                                        [--partitions iid by-class] [--methods DIMAT isolated ...] [--jobs 2]
                                        [--matching-data own|proxy] [--steps 10]

Five peers train a ResNet-20 of ours, each from an initialisation of its own and on its share of a class-balanced
subset. `first-merge`: their mean test accuracy before and after one merge, on a ring and on a full graph. `rounds`:
accuracy against the bytes of the models sent, at equal local epochs; `--methods` leaves some out. Every run is
`decentral run --on sim` with its own recipe; what was measured is kept in .cache/benchmarks/dimat_accuracy, one JSON a
run, and never measured twice.
Prints tables and writes docs/figures/dimat-*.png. The images lie under $DECENTRAL_DATA. Exit code 1: a goal is missed,
which is said; a goal that needs runs left out is not judged.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.dimat_curves import (
    ALIGNED,
    ALONE,
    AVERAGED,
    BEFORE,
    COMMON,
    GOAL,
    Point,
    Run,
    draw_first_merge,
    draw_rounds,
    missed_by_first_merge,
    missed_by_rounds,
    pick,
    show_first_merge,
    show_rounds,
)
from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.launch.engine import Options, execute
from decentral.run.journal import Event, Observer, read
from decentral.run.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmarks" / "dimat_accuracy"
PEERS, BATCH = 5, 64
PARTITIONS = ("iid", "by-class")
TOPOLOGIES = ("ring", "full")

MATCHED_ON = {"own": "of the peer's own images", "proxy": "class-balanced images that are in nobody's share"}

Overrides = Mapping[str, Any]

REESTIMATED = {"averaging": {"batchnorm": "reestimate"}}
MERGES: dict[str, Overrides] = {
    "WA": {"algorithm": "dpsgd"},
    AVERAGED: {"algorithm": "dpsgd", **REESTIMATED},
    ALIGNED: {"algorithm": "dimat"},
}
ROUNDS: dict[str, Overrides] = {
    ALIGNED: {"algorithm": "dimat"},
    AVERAGED: {"algorithm": "dpsgd", **REESTIMATED},
    "WA": {"algorithm": "dpsgd"},
    "gradient tracking": {"algorithm": "gradient-tracking", **REESTIMATED},
    ALONE: {"algorithm": "isolated"},
}
"""A round is whole local epochs."""
STEPS: dict[str, Overrides] = {
    GOAL: {"algorithm": "dpsgd"},
    "SGP, every batch": {"algorithm": "sgp", "topology": "exponential"},
    "gossip, every batch": {"algorithm": "gossip"},
}
"""A round is one optimiser step."""
ALL = (*ROUNDS, *STEPS, COMMON)


@dataclass(frozen=True)
class Setting:
    """What all runs of one invocation share."""

    subset: int
    test: int
    pretrain: int
    rounds: int
    epochs: int
    learning_rate: float
    samples: int
    device: str
    dataset: str
    model: str
    precision: str
    matching_data: str
    steps: int | None

    @property
    def epoch(self) -> int:
        """Optimiser steps in one epoch of a peer."""
        share = self.subset // PEERS
        return max(1, math.ceil(share / BATCH) - (share % BATCH == 1))  # a last batch of one joins the one before

    @property
    def a_round(self) -> int:
        """Optimiser steps of a peer in one round of those that merge."""
        return self.steps or self.epochs * self.epoch

    @property
    def words(self) -> str:
        """What a round is."""
        return f"{self.epochs} epochs" if self.steps is None else f"{self.steps} batches"

    def recipe(self, width: int, seed: int, partition: str, *changes: Overrides) -> Recipe:
        """The recipe of one run; later changes win."""
        values: dict[str, Any] = {
            "name": "dimat-accuracy",
            "peers": PEERS,
            "topology": "ring",
            "rounds": 1,
            "seed": seed,
            "device": self.device,
            "model": {"name": self.model, "width": width} if self.model.startswith("resnet") else self.model,
            "data": {
                "name": self.dataset,
                "partition": partition,
                "subset": self.subset,
                "augment": self.dataset.startswith("cifar"),
                "verify": False,
            },
            "training": {
                "epochs": 0,
                "batch_size": BATCH,
                "learning_rate": self.learning_rate,
                "weight_decay": 0.0005,
                "fresh_optimizer": False,
                "initialisation": "separate",
                "precision": self.precision,
                "channels_last": self.device != "cpu",
            },
            "matching": {"samples": self.samples, "data": self.matching_data},
            "evaluation": {"samples": self.test},
            "checkpoint": {"every": 1_000_000},
        }
        for change in changes:
            for key, value in change.items():
                values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
        return Recipe.model_validate(values)


@dataclass(frozen=True)
class Job:
    """One run to make: its place in the tables and its recipe. `epochs_a_round` translates rounds; the first `lead`
    epochs took place before the others' first merge and are no points of its curve, though their bytes count."""

    experiment: str
    method: str
    width: int
    partition: str
    seed: int
    recipe: Recipe
    epochs_a_round: float
    lead: float = 0.0

    @property
    def topology(self) -> str:
        return self.recipe.topology.name

    def file(self) -> Path:
        words = (self.experiment, self.method, self.topology, self.partition, f"width{self.width}", f"seed{self.seed}")
        name = re.sub("[^a-z0-9-]+", "-", "-".join(words).lower())
        return CACHE / f"{name}-{self.recipe.hash[:12]}.json"


def pretrained(setting: Setting, width: int, seed: int, partition: str) -> Path:
    """The checkpoints of peers that trained alone; they are trained now unless they are there."""
    recipe = setting.recipe(
        width, seed, partition, {"algorithm": "isolated", "training": {"pretrain_epochs": setting.pretrain}}
    )
    folder = CACHE / "pretrained" / recipe.hash[:16]
    if not (folder / "summary.json").exists():
        with tempfile.TemporaryDirectory(dir=made(folder.parent)) as temporary:
            began = time.monotonic()
            directory, summary = execute(recipe, "sim", Options(out=Path(temporary) / "run"))
            say(f"pre-trained width {width}, {partition}, seed {seed} in {time.monotonic() - began:.0f} s", summary)
            shutil.rmtree(folder, ignore_errors=True)
            directory.path.rename(folder)
    return folder


def jobs_of(
    setting: Setting,
    widths: Sequence[int],
    seeds: int,
    only: str | None,
    partitions: Sequence[str],
    methods: Sequence[str],
) -> list[Job]:
    """All runs, in the order of the tables. Pre-trains what they start from."""
    jobs = []
    for seed in range(seeds):
        for width in widths if only != "rounds" else ():
            jobs += first_merges(setting, width, seed)
        for partition in partitions if only != "first-merge" else ():
            jobs += [job for job in rounds(setting, widths[0], seed, partition) if job.method in methods]
    return jobs


def first_merges(setting: Setting, width: int, seed: int) -> list[Job]:
    start = {"training": {"start_from": str(pretrained(setting, width, seed, "iid") / "checkpoints")}}
    plans = [
        (method, {"topology": topology, **change})
        for topology in TOPOLOGIES
        for method, change in {BEFORE: {"algorithm": "isolated"}, **MERGES}.items()
    ]
    return [
        Job("first", method, width, "iid", seed, setting.recipe(width, seed, "iid", start, change), 0.0)
        for method, change in plans
    ]


def rounds(setting: Setting, width: int, seed: int, partition: str) -> list[Job]:
    start = {"training": {"start_from": str(pretrained(setting, width, seed, partition) / "checkpoints")}}
    steps = setting.a_round
    trained = {"epochs": setting.epochs} if setting.steps is None else {"steps": steps}
    whole = {"rounds": setting.rounds, "training": trained}
    single = {"rounds": setting.rounds * steps, "training": {"steps": 1}, "evaluation": {"every": steps}}
    jobs = []
    for method, change in {**ROUNDS, **STEPS}.items():
        schedule, epochs = (single, 1 / setting.epoch) if method in STEPS else (whole, steps / setting.epoch)
        recipe = setting.recipe(width, seed, partition, start, schedule, change)
        jobs.append(Job("rounds", method, width, partition, seed, recipe, epochs))
    lead = setting.pretrain * setting.epoch // steps  # rounds
    together = {
        "algorithm": "dpsgd",
        "rounds": (lead + setting.rounds) * steps,
        "training": {"steps": 1, "initialisation": "common"},
        "evaluation": {"every": steps},
    }
    recipe = setting.recipe(width, seed, partition, together)
    jobs.append(Job("rounds", COMMON, width, partition, seed, recipe, 1 / setting.epoch, lead * steps / setting.epoch))
    return jobs


def measure(job: Job) -> Run:
    """What one job comes to, from the cache if the run was made before."""

    def points(events: Iterable[Event]) -> list[Mapping[str, Any]]:
        return [asdict(point) for point in points_of(events, job.epochs_a_round, job.lead)]

    found = [Point(**point) for point in kept(job.file(), job.recipe, points)]
    return Run(job.experiment, job.method, job.topology, job.partition, job.width, job.seed, found)


def kept(
    file: Path,
    recipe: Recipe,
    points: Callable[[Iterable[Event]], list[Mapping[str, Any]]],
    observe: Observer = lambda event: None,
) -> list[Mapping[str, Any]]:
    """What `points` makes of the events of a run, as JSON keeps it: from `file` if the run was made before."""
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=made(file.parent)) as temporary:
            began = time.monotonic()
            directory, summary = execute(recipe, "sim", Options(out=Path(temporary) / "run", observe=observe))
            found = points(read(directory.path / "events.jsonl"))
        write_atomic(file, json.dumps({"recipe": recipe.model_dump(), "points": found}, indent=1).encode())
        say(f"{file.stem} in {time.monotonic() - began:.0f} s", summary)
    content: list[Mapping[str, Any]] = json.loads(file.read_text())["points"]
    return content


def points_of(events: Iterable[Event], epochs_a_round: float, lead: float) -> list[Point]:
    """One point for each round that was evaluated when the first `lead` epochs were over."""
    accuracies: dict[int, list[float]] = {}
    sent: dict[int, int] = {}
    for event in events:
        if event["event"] == "evaluated":
            accuracies.setdefault(event["round"], []).append(event["accuracy"])
        elif event["event"] == "round":
            sent[event["round"]] = sent.get(event["round"], 0) + event["bytes"]["model"]
    return [
        Point(round * epochs_a_round - lead, statistics.fmean(found), min(found), max(found), sent[round])
        for round, found in sorted(accuracies.items())
        if round * epochs_a_round > lead - 1e-9
    ]


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def say(what: str, summary: Mapping[str, Any]) -> None:
    print(f"{what}; accuracy {summary['accuracy']['mean']:.3f}", file=sys.stderr, flush=True)


def pretrain(work: tuple[Setting, int, int, str]) -> Path:
    return pretrained(*work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2], help="the rounds are run with the first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2, help="local epochs a round")
    parser.add_argument("--steps", type=int, help="batches a round, not epochs: who merges, merges more often")
    parser.add_argument("--pretrain", type=int, default=20, help="local epochs before the first merge")
    parser.add_argument("--subset", type=int, default=5000, help="class-balanced training images over all peers")
    parser.add_argument("--test", type=int, default=2000, help="class-balanced test images")
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--samples", type=int, default=512, help="images for matching and BatchNorm")
    parser.add_argument("--only", choices=("first-merge", "rounds"))
    parser.add_argument("--partitions", nargs="+", choices=PARTITIONS, default=list(PARTITIONS), help="of the rounds")
    parser.add_argument(
        "--methods", nargs="+", choices=ALL, default=list(ALL), metavar="NAME", help=f"of the rounds: {', '.join(ALL)}"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dataset", default="cifar10", help="digits: to see that everything works, in a minute")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of local training")
    parser.add_argument("--matching-data", choices=MATCHED_ON, default="own", help="images for matching and BatchNorm")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setting = Setting(**{each.name: getattr(arguments, each.name) for each in fields(Setting)})
    widths, only = arguments.widths, arguments.only
    if (missing := no_data(setting.dataset)) is not None:
        print(f"skipped: {missing}")
        return 0
    print(
        f"{setting.dataset}: {setting.subset} class-balanced training images over {PEERS} peers, {setting.test} test "
        f"images; {setting.model}, trained in {setting.precision}; SGD {setting.learning_rate}, momentum 0.9, batches "
        f"of {BATCH}; {setting.pretrain} epochs alone, then rounds of {setting.words}; {setting.samples} "
        f"{MATCHED_ON[setting.matching_data]} for matching; {arguments.seeds} seeds, mean ± standard deviation"
    )
    merged = {(width, "iid") for width in widths} if only != "rounds" else set()
    trained_on = {(widths[0], partition) for partition in arguments.partitions} if only != "first-merge" else set()
    wanted = [
        (setting, width, seed, how) for seed in range(arguments.seeds) for width, how in sorted(merged | trained_on)
    ]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(pretrain, wanted))
        jobs = jobs_of(setting, widths, arguments.seeds, only, arguments.partitions, arguments.methods)
        runs = list(pool.map(measure, jobs))
    figures, missed = [], []
    if only != "rounds":
        merges = pick(runs, experiment="first")
        show_first_merge(merges, widths)
        figures.append(draw_first_merge(merges, widths, "" if setting.device == "cpu" else "-gpu"))
        missed += missed_by_first_merge(merges, widths)
    for partition in arguments.partitions if only != "first-merge" else ():
        mine = pick(runs, experiment="rounds", partition=partition)
        show_rounds(mine, partition)
        shown = "-".join(
            [
                partition,
                *([] if setting.matching_data == "own" else [setting.matching_data]),
                *([] if setting.steps is None else [f"{setting.steps}-batches"]),
                *([] if setting.device == "cpu" else ["gpu"]),
            ]
        )
        figures.append(draw_rounds(mine, shown, setting.dataset))
        missed += missed_by_rounds(mine, partition)
    print("\n" + "\n".join(f"drawn: {figure.relative_to(ROOT)}" for figure in figures))
    print("\n".join(f"missed: {goal}" for goal in missed) or "no goal is missed")
    if arguments.json:
        content = {"setting": asdict(setting), "runs": [asdict(run) for run in runs]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(bool(missed))


def no_data(dataset: str) -> str | None:
    """Why the images cannot be read, if they cannot."""
    from decentral.data.datasets import load_dataset

    try:
        load_dataset(dataset, verify=False)
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
